"""Guests to test the daemon with: virtual machines and User-Mode Linux, spoken to through an agent inside.

A test gets a ``Guest`` and does not care which: ``guest.run("ls /mnt/share")`` returns what the command
printed in the guest. Nothing is read off a console; the console's log is shown when a guest is lost. The
images come from ``scripts/guest-images``.
"""
