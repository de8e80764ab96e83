"""What is asked of a daemon: workloads, each a cycle of steps that every slot for a request repeats."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

DEPTHS: Final = (1, 4, 32)


class Step(IntEnum):
    """One request of a cycle; load.h says what each asks and what is checked of its reply."""

    GETATTR = 1
    LOOKUP = 2
    LOOKUP_NONE = 3
    LOOKUP_COLD = 4
    OPEN = 5
    FLUSH = 6
    RELEASE = 7
    CREATE = 8
    UNLINK = 9
    WRITE_NEW = 10
    OPENDIR = 11
    READDIRPLUS = 12
    RELEASEDIR = 13
    READ = 14
    WRITE = 15
    CHMOD = 16
    STATFS = 17
    GETXATTR = 18
    FSYNC = 19
    UNKNOWN = 20
    READ_SMALL = 21
    UTIME = 22


@dataclass(frozen=True, slots=True)
class Workload:
    """A cycle. block counts the bytes of READ and WRITE; background is what one slot does beside the others.

    What is reported is a cycle: a request where the cycle is one, else what its name says. divisor makes
    it an average request of a longer cycle. uncached: the data is dropped from the host's page cache before.
    """

    name: str
    title: str
    steps: tuple[Step, ...]
    block: int = 4096
    random: bool = True
    background: tuple[Step, ...] = ()
    divisor: int = 1
    depths: tuple[int, ...] = DEPTHS
    uncached: bool = False
    metadata: bool = field(default=True)

    @property
    def requests(self) -> float:
        """How many requests a reported cycle is: its steps, of which each counts as one."""
        return len(self.steps) / self.divisor


_UNTAR = (
    Step.LOOKUP_NONE,
    Step.CREATE,
    Step.WRITE_NEW,
    Step.FLUSH,
    Step.UTIME,
    Step.RELEASE,
    Step.UNLINK,
)
_COMPILE = (
    *(Step.LOOKUP, Step.LOOKUP_NONE, Step.LOOKUP, Step.GETATTR, Step.GETATTR),
    *(Step.OPEN, Step.READ_SMALL, Step.FLUSH, Step.RELEASE),
)

WORKLOADS: Final = (
    Workload("unknown", "request answered ENOSYS", (Step.UNKNOWN,), metadata=False),
    Workload("getattr", "getattr", (Step.GETATTR,)),
    Workload("lookup", "lookup, known", (Step.LOOKUP,)),
    Workload("lookup-none", "lookup, missing", (Step.LOOKUP_NONE,)),
    Workload("lookup-cold", "lookup, cold, and forget", (Step.LOOKUP_COLD,)),
    Workload("open", "open + release", (Step.OPEN, Step.RELEASE)),
    Workload("open-flush", "open + flush + release", (Step.OPEN, Step.FLUSH, Step.RELEASE)),
    Workload(
        "create",
        "create + write 4K + release + unlink",
        (Step.CREATE, Step.WRITE_NEW, Step.RELEASE, Step.UNLINK),
    ),
    Workload(
        "readdirplus",
        "readdirplus, 1,000 entries",
        (Step.OPENDIR, Step.READDIRPLUS, Step.RELEASEDIR),
        depths=(1, 4),
    ),
    Workload("chmod", "chmod", (Step.CHMOD,)),
    Workload("statfs", "statfs", (Step.STATFS,)),
    Workload("getxattr", "getxattr", (Step.GETXATTR,)),
    Workload("mix", "mix (untar, compile), a request", (*_UNTAR, *_COMPILE), divisor=16),
    Workload("read4k", "read 4K, random", (Step.READ,), metadata=False),
    Workload("write4k", "write 4K, random", (Step.WRITE,), metadata=False),
    Workload("read1m", "read 1M, sequential", (Step.READ,), 1 << 20, False, depths=(1, 4), metadata=False),
    Workload("write1m", "write 1M, sequential", (Step.WRITE,), 1 << 20, False, depths=(1, 4), metadata=False),
    Workload(
        "getattr-fsync",
        "getattr beside write + fsync",
        (Step.GETATTR,),
        background=(Step.WRITE, Step.FSYNC),
        depths=(4,),
        metadata=False,
    ),
    Workload(
        "read4k-disk",
        "read 4K, not in the page cache",
        (Step.READ,),
        depths=(32,),
        uncached=True,
        metadata=False,
    ),
)
"""All of them; those that only say something on a disk are chosen by name."""

BY_NAME: Final = {workload.name: workload for workload in WORKLOADS}
