"""What vhostfs says of FUSE 7.45 is what the kernel's header says: sizes, offsets, opcodes and flags."""

from __future__ import annotations

from dataclasses import fields
from enum import IntEnum, IntFlag
from pathlib import Path
from typing import Any, cast

import pytest

from tests.unit.fuse_abi.kernel_header import HeaderUnavailableError, KernelHeader, find_kernel_header
from tests.unit.fuse_abi.structure_list import STRUCTURES
from vhostfs.fuse_abi import compatibility, device, flags, opcodes
from vhostfs.fuse_abi.layout import Structure
from vhostfs.fuse_abi.structures import AttrOut, EntryOut, InitOut, MknodIn, SetxattrIn, StatfsOut, WriteIn

PREFIXES: dict[str, type[IntFlag]] = {
    "FATTR_": flags.SetattrValid,
    "FOPEN_": flags.OpenReplyFlags,
    "FUSE_OPEN_": flags.OpenRequestFlags,
    "FUSE_ATTR_": flags.AttrFlags,
    "FUSE_GETATTR_": flags.GetattrFlags,
    "FUSE_READ_": flags.ReadFlags,
    "FUSE_WRITE_": flags.WriteFlags,
    "FUSE_RELEASE_": flags.ReleaseFlags,
    "FUSE_FSYNC_": flags.FsyncFlags,
    "FUSE_LK_": flags.LockFlags,
    "FUSE_IOCTL_": flags.IoctlFlags,
    "FUSE_POLL_": flags.PollFlags,
    "FUSE_SETXATTR_": flags.SetxattrFlags,
    "FUSE_SETUPMAPPING_FLAG_": flags.SetupMappingFlags,
    "CUSE_": flags.CuseInitFlags,
}

# Names that Python cannot hold, obsolete aliases, and constants that share a prefix but are no flags.
RENAMED = {"FUSE_IOCTL_32BIT": "THIRTY_TWO_BIT"}
NO_FLAGS = {"FUSE_WRITE_KILL_PRIV", "FUSE_IOCTL_MAX_IOV", "FUSE_SETXATTR_EXT", "CUSE_INIT_INFO_MAX"}


@pytest.fixture(scope="module")
def header() -> KernelHeader:
    """Provide the header, or skip and say why."""
    try:
        return find_kernel_header()
    except HeaderUnavailableError as error:
        pytest.skip(f"no <linux/fuse.h> of 7.45: {error}")


def python_offsets(kind: type[Structure], base: int = 0) -> dict[str, int]:
    """Return the offset of every field of a structure, those of nested ones by path."""
    offsets: dict[str, int] = {}
    at = base
    for field in fields(cast(Any, kind)):
        offsets[field.name] = at
        default = field.default
        if isinstance(default, Structure):
            offsets |= {f"{field.name}.{n}": o for n, o in python_offsets(type(default), at).items()}
            at += type(default).SIZE
        else:
            code = kind.__annotations__[field.name]
            sizes = {"U16": 2, "U32": 4, "S32": 4, "U64": 8, "S64": 8}
            at += sizes[code] if code in sizes else len(cast(bytes, default))
    assert at == base + kind.SIZE, (
        f"{kind.__name__} has fields of {at - base} bytes but a size of {kind.SIZE}"
    )
    return offsets


def c_field(path: str) -> str:
    """Return a field's name in C: Python has no use for leading underscores."""
    names = {"reserved": "__reserved", "spare0": "__spare0", "spare2": "__spare2"}
    return names.get(path, path)


def test_every_structure_of_the_header_is_declared(header: KernelHeader) -> None:
    assert {kind.C_NAME for kind in STRUCTURES} == header.structures()


def test_every_field_has_the_kernels_offset_and_every_structure_its_size(
    header: KernelHeader, tmp_path: Path
) -> None:
    expected: dict[str, int] = {}
    dunder = {"fuse_sx_time", "fuse_statx"}
    for kind in STRUCTURES:
        expected[f"sizeof(struct {kind.C_NAME})"] = kind.SIZE
        for path, offset in python_offsets(kind).items():
            parts = path.split(".")
            nested_statx = kind.C_NAME == "fuse_statx_out" and parts[0] == "stat" and len(parts) > 1
            if kind.C_NAME in dunder or nested_statx:
                parts = [*parts[:-1], c_field(parts[-1])]
            expected[f"offsetof(struct {kind.C_NAME}, {'.'.join(parts)})"] = offset
    assert header.evaluate(list(expected), tmp_path) == expected


@pytest.mark.parametrize(
    ("enumeration", "members", "prefix"),
    [
        ("fuse_opcode", opcodes.Opcode, "FUSE_"),
        ("fuse_notify_code", opcodes.NotifyCode, "FUSE_NOTIFY_"),
        ("fuse_uring_cmd", device.UringCommand, "FUSE_IO_URING_CMD_"),
        ("fuse_ext_type", flags.ExtensionType, "FUSE_"),
    ],
)
def test_every_enumerator_has_the_kernels_value(
    header: KernelHeader, tmp_path: Path, enumeration: str, members: type[IntEnum], prefix: str
) -> None:
    names = header.enumerators(enumeration)
    known = {name: members[name.removeprefix(prefix).removeprefix("EXT_")] for name in names}
    assert header.evaluate(sorted(names), tmp_path) == known
    assert len(names) == len(members)


def test_every_flag_has_the_kernels_bit(header: KernelHeader, tmp_path: Path) -> None:
    expected: dict[str, int] = {}
    for prefix, kind in PREFIXES.items():
        names = header.macros(rf"{prefix}\w+") - NO_FLAGS
        expected |= {name: kind[RENAMED.get(name, name.removeprefix(prefix))] for name in names}
        assert len(names) == len(kind), f"{kind.__name__} declares other flags than the header"
    assert header.evaluate(sorted(expected), tmp_path) == expected


def test_every_init_flag_has_the_kernels_bit(header: KernelHeader, tmp_path: Path) -> None:
    expected = {f"FUSE_{flag.name}": flag.value for flag in flags.InitFlags}
    expected["FUSE_INIT_RESERVED & 0xffffffff"] = expected.pop("FUSE_INIT_RESERVED")
    assert header.evaluate(sorted(expected), tmp_path) == expected
    above_31 = header.macros(r"FUSE_\w+(?=\s+\(1ULL << (?:3[2-9]|[45]\d)\))")
    assert above_31 == {name for name, bit in expected.items() if bit > 1 << 31}


def test_the_other_constants_are_the_kernels(header: KernelHeader, tmp_path: Path) -> None:
    expected = {
        "FUSE_KERNEL_VERSION": opcodes.KERNEL_VERSION,
        "FUSE_KERNEL_MINOR_VERSION": opcodes.KERNEL_MINOR_VERSION,
        "FUSE_ROOT_ID": opcodes.ROOT_ID,
        "FUSE_UNIQUE_RESEND": flags.UNIQUE_RESEND,
        "FUSE_INVALID_UIDGID": flags.INVALID_UIDGID,
        "FUSE_IOCTL_MAX_IOV": flags.IOCTL_MAX_IOV,
        "FUSE_EXPIRE_ONLY": flags.InvalEntryFlags.EXPIRE_ONLY,
        "CUSE_INIT_INFO_MAX": device.CUSE_INIT_INFO_MAX,
        "FUSE_DEV_IOC_CLONE": device.DEV_IOC_CLONE,
        "FUSE_DEV_IOC_BACKING_OPEN": device.DEV_IOC_BACKING_OPEN,
        "FUSE_DEV_IOC_BACKING_CLOSE": device.DEV_IOC_BACKING_CLOSE,
        "FUSE_DEV_IOC_SYNC_INIT": device.DEV_IOC_SYNC_INIT,
        "FUSE_COMPAT_ENTRY_OUT_SIZE": compatibility.size_at(EntryOut, 8),
        "FUSE_COMPAT_ATTR_OUT_SIZE": compatibility.size_at(AttrOut, 8),
        "FUSE_COMPAT_MKNOD_IN_SIZE": compatibility.size_at(MknodIn, 11),
        "FUSE_COMPAT_WRITE_IN_SIZE": compatibility.size_at(WriteIn, 8),
        "FUSE_COMPAT_STATFS_SIZE": compatibility.size_at(StatfsOut, 3),
        "FUSE_COMPAT_SETXATTR_IN_SIZE": compatibility.size_at(SetxattrIn, 32),
        "FUSE_COMPAT_INIT_OUT_SIZE": compatibility.size_at(InitOut, 4),
        "FUSE_COMPAT_22_INIT_OUT_SIZE": compatibility.size_at(InitOut, 22),
    }
    assert header.evaluate(sorted(expected), tmp_path) == expected
