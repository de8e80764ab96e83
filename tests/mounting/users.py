"""Another user's doings, in a process forked off this one: its modules may lie where nobody else reads."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

NOBODY = 65534


def as_user(uid: int, act: Callable[[], None]) -> None:
    """Do something as a user, in a process and a mount namespace of its own; what it raises fails the test.

    /dev/fuse is for everybody there, as most machines have it.
    """
    _await_ended_threads()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.unshare(os.CLONE_NEWNS)
            _offer_fuse()
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            act()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _await_ended_threads() -> None:
    """Wait, for a moment, until threads that have been joined have left the process, too, which tells nobody.

    A fork amid the last steps of one may take a lock of the sanitizer's allocator along, which nobody opens.
    """
    for _ in range(500):
        known = {str(thread.native_id) for thread in threading.enumerate()}
        if all(task.name in known for task in Path("/proc/self/task").iterdir()):
            break
        time.sleep(0.001)


def _offer_fuse() -> None:
    """Put a device node of any permissions in the place of the machine's, in this namespace."""
    device = Path("/dev/fuse")
    number = device.stat().st_rdev
    aside = Path("/mnt")
    for command in (["--make-rprivate", "/"], ["-t", "tmpfs", "none", str(aside)]):
        subprocess.run(["mount", *command], check=True)
    node = aside / "fuse"
    os.mknod(node, 0o020666, number)
    node.chmod(0o666)
    subprocess.run(["mount", "--bind", str(node), str(device)], check=True)
