"""Lock the daemon in before it serves: it keeps the shares, and loses sight of the rest of the host.

    namespace   a mount, network and IPC namespace of its own. The shares are cloned (with all that is mounted
                below, and with what the host mounts there later), a small read-only tmpfs becomes the root,
                each share is attached to it, and the host's own tree is detached. Without root's power, or
                with id maps, a user namespace comes first, in which the daemon is root over the mapped users.
    chroot      the share becomes the root.
    none        nothing is hidden.

In every mode, a daemon that is root (in its namespace) keeps only the capabilities that serving needs.

`enter` must run before the process has a second thread: user namespaces demand it, and mount namespaces and
capabilities belong to the calling thread. It must also run after everything that is ever imported or opened
by path; sockets are removed through directory descriptors, and nothing else is opened by path later on.

What is kept besides the shares (/proc/self/fd, to reopen files, and the sockets' directories) would be a way
out for one who has taken the daemon over: "..". In a mount namespace each is a mount of its own, above which
there is nothing. chroot has no such means.
"""

from __future__ import annotations

import ctypes
import errno
import importlib
import logging
import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from vhostfs.config.model import IdRange, SandboxMode, SandboxSettings
from vhostfs.errors import StartError

logger = logging.getLogger(__name__)

# <sys/mount.h>, <linux/mount.h>, <linux/fcntl.h>
MS_REC: Final = 0x4000
MS_SLAVE: Final = 0x80000
MNT_DETACH: Final = 2
AT_FDCWD: Final = -100
AT_EMPTY_PATH: Final = 0x1000
AT_RECURSIVE: Final = 0x8000
OPEN_TREE_CLONE: Final = 1
OPEN_TREE_CLOEXEC: Final = os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH: Final = 4
FSOPEN_CLOEXEC: Final = 1
FSMOUNT_CLOEXEC: Final = 1
FSCONFIG_SET_STRING: Final = 1
FSCONFIG_CMD_CREATE: Final = 6
MOUNT_ATTR_RDONLY: Final = 1
MOUNT_ATTR_NOSUID: Final = 2
MOUNT_ATTR_NODEV: Final = 4
MOUNT_ATTR_NOEXEC: Final = 8

# System calls younger than Linux 5.1 have the same number on every architecture.
SYS_OPEN_TREE: Final = 428
SYS_MOVE_MOUNT: Final = 429
SYS_FSOPEN: Final = 430
SYS_FSCONFIG: Final = 431
SYS_FSMOUNT: Final = 432
SYS_MOUNT_SETATTR: Final = 442

# <linux/prctl.h>, <linux/capability.h>
PR_GET_SECUREBITS: Final = 27
PR_SET_SECUREBITS: Final = 28
SECBIT_NO_SETUID_FIXUP: Final = 4
PR_CAPBSET_READ: Final = 23
PR_CAPBSET_DROP: Final = 24
PR_SET_NO_NEW_PRIVS: Final = 38
CAPABILITY_VERSION_3: Final = 0x20080522

PROC_SELF_FD: Final = PurePosixPath("/proc/self/fd")

KEPT_CAPABILITIES: Final[Mapping[str, int]] = {
    "CHOWN": 0,
    "DAC_OVERRIDE": 1,
    "DAC_READ_SEARCH": 2,
    "FOWNER": 3,
    "FSETID": 4,
    "SETGID": 6,
    "SETUID": 7,
    "MKNOD": 27,
    "SETFCAP": 31,
}
"""What acting for any user of a guest takes; DAC_READ_SEARCH opens files by handle."""


@dataclass(frozen=True, slots=True)
class Sandbox:
    """What the daemon keeps of the host: descriptors, all O_PATH, which are the holder's to close."""

    shares: Mapping[PurePosixPath, int]
    proc_self_fd: int


def enter(
    settings: SandboxSettings,
    shares: Sequence[PurePosixPath],
    kept: Mapping[int, PurePosixPath],
    *,
    network: bool = False,
) -> Sandbox:
    """Lock the process in, for good; several modes cannot be combined.

    `kept` are open descriptors, and the directories that they are of. They stay open under the same numbers;
    in a mount namespace, nothing above those directories can be reached through them any more. With
    `network`, the host's network stays in reach.

    Raise StartError, saying what the host refused and what else could be asked for. The process may be half
    locked in then, and should end.
    """
    for share in shares:
        os.close(_open_share(share))
    with _refusal("open /proc/self/fd", "mount /proc"):
        proc_self_fd = os.open(PROC_SELF_FD, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    match settings.mode:
        case SandboxMode.NAMESPACE:
            opened = _enter_namespace(settings, shares, {proc_self_fd: PROC_SELF_FD, **kept}, network)
        case SandboxMode.CHROOT:
            opened = _enter_chroot(shares)
        case SandboxMode.NONE:
            opened = {share: _open_share(share) for share in shares}
    if os.geteuid() == 0:
        _drop_capabilities()
    with _refusal("give up new privileges", ""):
        _prctl(PR_SET_NO_NEW_PRIVS, 1)
    # Who creates a file sends its mode with the guest's umask already applied.
    os.umask(0)
    return Sandbox(opened, proc_self_fd)


def _open_share(share: PurePosixPath) -> int:
    try:
        return os.open(share, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise StartError(f"the shared directory {share} cannot be opened: {error.strerror}") from None


@contextmanager
def _refusal(what: str, alternative: str) -> Iterator[None]:
    """Turn the host's refusal of a step into a sentence."""
    try:
        yield
    except OSError as error:
        hint = f"; {alternative}" if alternative else ""
        raise StartError(f"the sandbox could not {what}: {error.strerror}{hint}") from None


# Namespaces.

_RESOLVER_FILES: Final = ("resolv.conf", "hosts", "nsswitch.conf", "gai.conf")

WITHOUT_CLONES: Final = "Linux 5.2 or newer is needed; --sandbox none does without"
WITHOUT_NAMESPACES: Final = (
    "where namespaces are not allowed, use --sandbox chroot (as root) or --sandbox none"
)


def _enter_namespace(
    settings: SandboxSettings,
    shares: Sequence[PurePosixPath],
    kept: Mapping[int, PurePosixPath],
    network: bool,
) -> dict[PurePosixPath, int]:
    if os.geteuid() != 0 or settings.uid_map or settings.gid_map:
        _enter_user_namespace(settings)
    with _refusal("make a mount namespace", WITHOUT_NAMESPACES):
        # No process namespace: it would take a fork, and whoever started the daemon knows it by its number.
        os.unshare(os.CLONE_NEWNS | os.CLONE_NEWIPC | (0 if network else os.CLONE_NEWNET))
    with _refusal("take its mounts off the host's", WITHOUT_NAMESPACES):
        # A slave still hears of what the host mounts below a share later, and tells the host nothing.
        _mount(None, "/", None, MS_REC | MS_SLAVE)
    clones = []
    for share in shares:
        with _refusal(f"clone {share}", WITHOUT_CLONES):
            clones.append(_clone_tree(share))
            # The daemon runs no program and opens no device of a share: that is the guest's business.
            _set_attributes(clones[-1], MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV, recursive=True)
    for descriptor, directory in kept.items():
        with _refusal(f"clone {directory}", WITHOUT_CLONES):
            clone = _clone_tree(directory)
            os.dup2(clone, descriptor, inheritable=False)
            os.close(clone)
    with _refusal("make a root directory", WITHOUT_NAMESPACES):
        root = _new_tmpfs()
        if network:
            importlib.import_module("encodings.idna")  # in which Python spells names of hosts
            _copy_resolver_files(root)
        _syscall(SYS_MOVE_MOUNT, root, b"", AT_FDCWD, b"/", MOVE_MOUNT_F_EMPTY_PATH)
    for index, clone in enumerate(clones):
        with _refusal(f"attach {shares[index]}", WITHOUT_NAMESPACES):
            os.mkdir(str(index), 0o500, dir_fd=root)
            _syscall(SYS_MOVE_MOUNT, clone, b"", root, str(index).encode(), MOVE_MOUNT_F_EMPTY_PATH)
            os.close(clone)
    with _refusal("leave the host's root directory", WITHOUT_NAMESPACES):
        _set_attributes(root, MOUNT_ATTR_RDONLY, recursive=False)
        _pivot_to(root)
        os.close(root)
    return {share: _open_share_at(index, share) for index, share in enumerate(shares)}


def _copy_resolver_files(root: int) -> None:
    """Give a root directory what the C library asks for the addresses of hosts, as it is now."""
    os.mkdir("etc", 0o500, dir_fd=root)
    for name in _RESOLVER_FILES:
        # One that is missing, or too large for the root directory, is done without.
        with suppress(OSError):
            content = Path("/etc", name).read_bytes()
            target = os.open(f"etc/{name}", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o400, dir_fd=root)
            try:
                os.write(target, content)
            finally:
                os.close(target)


def _open_share_at(index: int, share: PurePosixPath) -> int:
    with _refusal(f"open {share} inside", WITHOUT_NAMESPACES):
        return os.open(f"/{index}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def _clone_tree(path: PurePosixPath) -> int:
    """Return a detached copy of the mounts at and below a directory, which is gone when its descriptor is."""
    flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE
    return _syscall(SYS_OPEN_TREE, AT_FDCWD, os.fsencode(path), flags)


def detached_mount(path: PurePosixPath) -> int:
    """Return a descriptor of a directory in a copy of its mounts, which is attached nowhere and gone with it.

    From there nothing above the directory can be reached, nor any program or device of it used. Raises
    OSError: EPERM without CAP_SYS_ADMIN, ENOSYS before Linux 5.2.
    """
    clone = _clone_tree(path)
    try:
        _set_attributes(clone, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV, recursive=True)
    except OSError:
        os.close(clone)
        raise
    return clone


def _new_tmpfs() -> int:
    """Return a detached tmpfs with just enough room for the shares' mount points."""
    context = _syscall(SYS_FSOPEN, b"tmpfs", FSOPEN_CLOEXEC)
    try:
        for key, value in ((b"mode", b"0500"), (b"size", b"64k")):
            _syscall(SYS_FSCONFIG, context, FSCONFIG_SET_STRING, key, value, 0)
        _syscall(SYS_FSCONFIG, context, FSCONFIG_CMD_CREATE, None, None, 0)
        attributes = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC
        return _syscall(SYS_FSMOUNT, context, FSMOUNT_CLOEXEC, attributes)
    finally:
        os.close(context)


def _pivot_to(root: int) -> None:
    """Make a mount that is attached to / the root, and detach the old one with everything below."""
    old_root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fchdir(root)
        # Stacked on one directory, the old root is found again through its descriptor: pivot_root(2).
        _checked(_libc.pivot_root(b".", b"."))
        os.fchdir(old_root)
        _checked(_libc.umount2(b".", MNT_DETACH))
        os.chdir("/")
    finally:
        os.close(old_root)


# User namespaces.


def _enter_user_namespace(settings: SandboxSettings) -> None:
    """Become root in a user namespace, over the mapped users and groups."""
    uid, gid = os.geteuid(), os.getegid()
    uid_map = settings.uid_map or _default_map(uid, "/etc/subuid", "newuidmap")
    gid_map = settings.gid_map or _default_map(uid, "/etc/subgid", "newgidmap", own=gid)
    alone = uid_map == (IdRange(0, uid, 1),) and gid_map == (IdRange(0, gid, 1),) and uid != 0
    with _refusal("make a user namespace", "where users may not, run as root or with --sandbox none"):
        if alone:
            os.unshare(os.CLONE_NEWUSER)
            _write("/proc/self/setgroups", "deny")
            _write("/proc/self/uid_map", _map_text(uid_map))
            _write("/proc/self/gid_map", _map_text(gid_map))
        else:
            _unshare_with_helper(uid_map, gid_map)
    # The ids of the outside are mapped to these; to be one of them takes the name of the inside.
    with _refusal("become root of its user namespace", "map a user and a group to 0"):
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)


def _default_map(uid: int, ranges_file: str, tool: str, own: int | None = None) -> tuple[IdRange, ...]:
    """Return what an unprivileged user may map: itself to 0, then the range that the host grants it."""
    itself = IdRange(0, uid if own is None else own, 1)
    granted = _subordinate_range(uid, Path(ranges_file))
    if granted is None or shutil.which(tool) is None:
        logger.warning(
            "a guest sees one owner only: for others, this user needs a range in %s, and %s",
            ranges_file,
            tool,
        )
        return (itself,)
    first, count = granted
    return (itself, IdRange(1, first, count))


def _subordinate_range(uid: int, ranges_file: Path) -> tuple[int, int] | None:
    """Return the first range that the file grants, under the user's name or number: subuid(5)."""
    owners = {str(uid)}
    with suppress(KeyError):
        owners.add(pwd.getpwuid(uid).pw_name)
    try:
        lines = ranges_file.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        owner, _, numbers = line.partition(":")
        first, _, count = numbers.partition(":")
        if owner in owners and first.isdecimal() and count.isdecimal():
            return int(first), int(count)
    return None


def _map_text(ranges: Sequence[IdRange]) -> str:
    return "".join(f"{part.inside} {part.outside} {part.count}\n" for part in ranges)


def _write(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def _unshare_with_helper(uid_map: Sequence[IdRange], gid_map: Sequence[IdRange]) -> None:
    """Make a user namespace whose maps a child writes, which stays outside and thus may."""
    target = os.getpid()
    ready, made = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(made)
            if os.read(ready, 1) == b"!":
                _write_maps(target, uid_map, gid_map)
                status = 0
        except (OSError, subprocess.CalledProcessError) as error:
            os.write(2, f"vhostfs: {error}\n".encode())
        finally:
            os._exit(status)
    os.close(ready)
    try:
        os.unshare(os.CLONE_NEWUSER)
        os.write(made, b"!")
    finally:
        os.close(made)
        _, wait_status = os.waitpid(child, 0)
    if wait_status != 0:
        raise OSError(errno.EPERM, "the users or groups cannot be mapped")


def _write_maps(target: int, uid_map: Sequence[IdRange], gid_map: Sequence[IdRange]) -> None:
    if os.geteuid() == 0:
        _write(f"/proc/{target}/uid_map", _map_text(uid_map))
        _write(f"/proc/{target}/gid_map", _map_text(gid_map))
        return
    for tool, ranges in (("newuidmap", uid_map), ("newgidmap", gid_map)):
        subprocess.run([tool, str(target), *_map_text(ranges).split()], check=True)


# chroot.


def _enter_chroot(shares: Sequence[PurePosixPath]) -> dict[PurePosixPath, int]:
    if len(shares) != 1:
        raise StartError("chroot holds one shared directory; several need --sandbox namespace or none")
    with _refusal(f"change its root to {shares[0]}", "run as root, or use --sandbox none"):
        os.chroot(shares[0])
        os.chdir("/")
        return {shares[0]: os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)}


# Capabilities.


class _CapabilityHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _CapabilityData(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


def _drop_capabilities() -> None:
    """Keep KEPT_CAPABILITIES, as far as they are there, and let none come back by running a program."""
    header = _CapabilityHeader(CAPABILITY_VERSION_3, 0)
    sets = (_CapabilityData * 2)()
    with _refusal("drop capabilities", "this should not happen"):
        # To act for a user of the guest changes the user, not what the daemon may do: csrc/credentials.c.
        _prctl(PR_SET_SECUREBITS, _prctl(PR_GET_SECUREBITS, 0) | SECBIT_NO_SETUID_FIXUP)
        _checked(_libc.capget(ctypes.byref(header), sets))
        number = 0
        while _bounded(number):
            if number not in KEPT_CAPABILITIES.values():
                _prctl(PR_CAPBSET_DROP, number)
            number += 1
        for half in (0, 1):
            kept = sum(1 << (each - 32 * half) for each in KEPT_CAPABILITIES.values() if each // 32 == half)
            sets[half].permitted &= kept
            sets[half].effective = sets[half].permitted
            sets[half].inheritable = 0
        _checked(_libc.capset(ctypes.byref(header), sets))


def _bounded(number: int) -> bool:
    """Tell whether the kernel knows a capability of that number."""
    try:
        _prctl(PR_CAPBSET_READ, number)
    except OSError:
        return False
    return True


# System calls that Python does not have.

_libc: Final = ctypes.CDLL(None, use_errno=True)


class _MountAttributes(ctypes.Structure):
    """struct mount_attr of <linux/mount.h>."""

    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _syscall(number: int, *arguments: int | bytes | None) -> int:
    """Make a system call; integers are widened to registers. Raises OSError."""
    words = [ctypes.c_long(each) if isinstance(each, int) else ctypes.c_char_p(each) for each in arguments]
    return _checked(_libc.syscall(ctypes.c_long(number), *words))


def _prctl(option: int, argument: int) -> int:
    zero = ctypes.c_ulong(0)
    return _checked(_libc.prctl(ctypes.c_int(option), ctypes.c_ulong(argument), zero, zero, zero))


def _mount(source: str | None, target: str, kind: str | None, flags: int) -> None:
    encoded = [None if text is None else os.fsencode(text) for text in (source, target, kind)]
    _checked(_libc.mount(*encoded, ctypes.c_ulong(flags), None))


def _set_attributes(tree: int, attributes: int, *, recursive: bool) -> None:
    """Set attributes of a mount, and with `recursive` of all below it; before Linux 5.12, do without."""
    wanted = _MountAttributes(attr_set=attributes)
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    words = (ctypes.c_long(tree), ctypes.c_char_p(b""), ctypes.c_long(flags))
    size = ctypes.c_ulong(ctypes.sizeof(wanted))
    try:
        _checked(_libc.syscall(ctypes.c_long(SYS_MOUNT_SETATTR), *words, ctypes.byref(wanted), size))
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise
