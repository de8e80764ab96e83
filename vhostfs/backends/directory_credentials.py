"""Acting as the caller, for one system call or a few, on the calling thread alone.

What is made is owned by the file-system ids of the thread that makes it. setfsuid(2) and setfsgid(2) change
these for one thread; the capabilities that Linux takes away with them are taken back, but for CAP_FSETID,
which would let a user make files set-group-id for a group that is not theirs: the guest's kernel has checked
access already, knowing groups of the caller that the host does not.
"""

from __future__ import annotations

import errno
import os
import threading
from types import TracebackType
from typing import Any, Final

import cffi

from vhostfs.filesystem import Caller

_ffi: Final = cffi.FFI()
_ffi.cdef(
    """
    struct header { uint32_t version; int pid; };
    struct data { uint32_t effective, permitted, inheritable; };
    int setfsuid(uint32_t);
    int setfsgid(uint32_t);
    int capget(struct header *, struct data *);
    int capset(struct header *, const struct data *);
    long syscall(long, long, uint32_t *);
    """
)
_libc: Final[Any] = _ffi.dlopen(None)

_VERSION: Final = 0x20080522
_SETGROUPS: Final[int | None] = {"x86_64": 116, "aarch64": 159, "riscv64": 159}.get(os.uname().machine)
"""The system call's number: libc's function would change the groups of all threads."""

_NO_ID: Final = 0xFFFFFFFF
_CAP_FSETID: Final = 1 << 4
_CAP_SETGID: Final = 1 << 6
_CAP_SETUID: Final = 1 << 7


class _Own:
    """What a thread is when it acts as itself; capabilities are one bit each."""

    def __init__(self) -> None:
        self.uid = os.geteuid()
        self.gid = os.getegid()
        self.groups = os.getgroups()
        self.header = _ffi.new("struct header *", {"version": _VERSION})
        self.data = _ffi.new("struct data[2]")
        if _libc.capget(self.header, self.data) != 0:
            self.data[0].effective = self.data[1].effective = 0
        self.low: int = self.data[0].effective
        self.sets_groups = _SETGROUPS is not None and bool(self.low & _CAP_SETGID)

    def set_low(self, low: int) -> None:
        """Have these of the first 32 capabilities in force, and of the others all that were."""
        self.data[0].effective = low
        _libc.capset(self.header, self.data)

    def set_groups(self, groups: list[int]) -> None:
        """Take supplementary groups on."""
        if _SETGROUPS is not None:
            _libc.syscall(_SETGROUPS, len(groups), _ffi.new("uint32_t[]", groups))


_threads: Final = threading.local()


def _own() -> _Own:
    """Return what the calling thread is, asked when it first acts: sandboxes change it before."""
    try:
        own: _Own = _threads.own
    except AttributeError:
        own = _threads.own = _Own()
    return own


class acting_as:  # noqa: N801 - read as a verb
    """Make files as a caller, with its umask: `with acting_as(caller): os.mkdir(...)`.

    A daemon without power stands for its own user, as whom the guest's root then acts. Raises OSError EPERM
    for ids that the host does not let it take. Nothing may be awaited inside.
    """

    __slots__ = ("_gid", "_grouped", "_uid", "_umask")

    def __init__(self, caller: Caller) -> None:
        own = _own()
        uid, gid = caller.uid, caller.gid
        if uid == 0 and not own.low & _CAP_SETUID:
            uid = own.uid
        if gid == 0 and not own.low & _CAP_SETGID:
            gid = own.gid
        self._uid, self._gid = uid, gid
        self._umask = os.umask(caller.umask & 0o777)
        self._grouped = False
        if uid == own.uid and gid == own.gid:
            return
        taken = _NO_ID not in {uid, gid} and _take_gid(gid) and _take_uid(uid)
        if not taken:
            self.__exit__(None, None, None)
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        groups = [group for group in caller.groups if 0 <= group < _NO_ID]
        if own.sets_groups and groups != own.groups:
            own.set_groups(groups)
            self._grouped = True
        if uid != own.uid:
            own.set_low(own.low & ~_CAP_FSETID)

    def __enter__(self) -> None:
        """Act as the caller from here on."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Be oneself again."""
        own = _own()
        if self._uid != own.uid:
            _libc.setfsuid(own.uid)
            own.set_low(own.low)
        if self._gid != own.gid:
            _libc.setfsgid(own.gid)
        if self._grouped:
            own.set_groups(own.groups)
        os.umask(self._umask)


def _take_uid(uid: int) -> bool:
    _libc.setfsuid(uid)
    return uid == _own().uid or int(_libc.setfsuid(_NO_ID)) & _NO_ID == uid


def _take_gid(gid: int) -> bool:
    _libc.setfsgid(gid)
    return gid == _own().gid or int(_libc.setfsgid(_NO_ID)) & _NO_ID == gid


class without_fsetid:  # noqa: N801 - read as a verb
    """Have the host clear set-user-id and set-group-id bits of what is written to or truncated inside."""

    __slots__ = ("_wanted",)

    def __init__(self, wanted: bool) -> None:
        self._wanted = wanted and bool(_own().low & _CAP_FSETID)
        if self._wanted:
            _own().set_low(_own().low & ~_CAP_FSETID)

    def __enter__(self) -> None:
        """Be without the capability from here on."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Take it back."""
        if self._wanted:
            _own().set_low(_own().low)
