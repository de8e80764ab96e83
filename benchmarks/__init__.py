"""What requests cost: a load generator on the project's own front-end, and comparisons of virtio-fs daemons.

`benchmarks/compare` is the command. share.py makes the directories that are served, workloads.py says what is
asked, guest.py asks it (in C: load/), daemons.py runs the daemons, comparison.py measures them in turn.
"""
