"""What may follow the arguments of MKNOD, MKDIR, SYMLINK, CREATE and TMPFILE: security contexts, then groups.

in_header.total_extlen, in units of 8 bytes, says how much of the request's end belongs to extensions.
Where SECURITY_CTX was taken, the security context header comes first, always, even with no context behind it.
Then extension headers with a type follow, of which there is one: ExtensionType.GROUPS.
"""

from __future__ import annotations

from collections.abc import Buffer, Sequence
from dataclasses import dataclass
from struct import Struct

from vhostfs.fuse_abi.directory import padded
from vhostfs.fuse_abi.flags import ExtensionType
from vhostfs.fuse_abi.layout import U32, Structure, structure


@structure("fuse_secctx")
class Secctx(Structure):
    """Begin one security context: its name and a NUL follow, then size bytes of context, padded to 8."""

    size: U32 = 0
    padding: U32 = 0


@structure("fuse_secctx_header")
class SecctxHeader(Structure):
    """Begin the security contexts. size counts all of them with this header."""

    size: U32 = 0
    nr_secctx: U32 = 0


@structure("fuse_ext_header")
class ExtHeader(Structure):
    """Begin an extension. size counts this header and what follows, padded to 8; type is an ExtensionType."""

    size: U32 = 0
    type: U32 = 0


@structure("fuse_supp_groups")
class SuppGroups(Structure):
    """Begin the groups of the caller that matter: nr_groups ids of 32 bits follow."""

    nr_groups: U32 = 0


@dataclass(frozen=True, slots=True)
class SecurityContext:
    """A security label for the new file, such as that of security.selinux."""

    name: bytes
    context: bytes


@dataclass(frozen=True, slots=True)
class Extensions:
    """All that a request brings beside its arguments. contexts is None where SECURITY_CTX was not taken."""

    contexts: tuple[SecurityContext, ...] | None = None
    groups: tuple[int, ...] = ()

    def pack(self) -> bytes:
        """Return the extensions as they stand at the end of a request, a multiple of 8 bytes."""
        packed = b"" if self.contexts is None else _pack_contexts(self.contexts)
        if self.groups:
            size = ExtHeader.SIZE + SuppGroups.SIZE + 4 * len(self.groups)
            packed += ExtHeader(padded(size), ExtensionType.GROUPS).pack()
            packed += SuppGroups(len(self.groups)).pack() + _gids(len(self.groups)).pack(*self.groups)
        return packed.ljust(padded(len(packed)), b"\0")

    @classmethod
    def unpack(cls, packed: Buffer, *, security: bool) -> Extensions:
        """Read the extensions of a request; security says whether SECURITY_CTX was taken.

        ValueError where sizes contradict each other or a type is unknown.
        """
        view = memoryview(packed)
        contexts: tuple[SecurityContext, ...] | None = None
        groups: tuple[int, ...] = ()
        offset = 0
        if security:
            contexts, offset = _unpack_contexts(view)
        while offset < len(view):
            header = ExtHeader.unpack_from(_held(view, offset, ExtHeader.SIZE))
            body = _held(view, offset, header.size)[ExtHeader.SIZE :]
            if header.type != ExtensionType.GROUPS:
                raise ValueError(f"a request carries an extension of unknown type {header.type}")
            if header.size % 8 or groups:
                raise ValueError("a request carries a malformed list of groups")
            count = SuppGroups.unpack_from(_held(body, 0, SuppGroups.SIZE)).nr_groups
            groups = _gids(count).unpack(_held(body, SuppGroups.SIZE, 4 * count))
            offset += header.size
        return cls(contexts, groups)


def _gids(count: int) -> Struct:
    return Struct(f"={count}I")


def _held(view: memoryview, offset: int, size: int) -> memoryview:
    part = view[offset : offset + size]
    if len(part) < size or size == 0:
        raise ValueError("an extension reaches beyond the request")
    return part


def _pack_contexts(contexts: Sequence[SecurityContext]) -> bytes:
    packed = b""
    for each in contexts:
        record = Secctx(len(each.context)).pack() + each.name + b"\0" + each.context
        packed += record.ljust(padded(len(record)), b"\0")
    return SecctxHeader(SecctxHeader.SIZE + len(packed), len(contexts)).pack() + packed


def _unpack_contexts(view: memoryview) -> tuple[tuple[SecurityContext, ...], int]:
    header = SecctxHeader.unpack_from(_held(view, 0, SecctxHeader.SIZE))
    if header.nr_secctx > ExtensionType.MAX_NR_SECCTX:
        raise ValueError(f"a request carries {header.nr_secctx} security contexts")
    if header.size < SecctxHeader.SIZE or header.size % 8:
        raise ValueError(f"the security contexts of a request claim a size of {header.size}")
    held = bytes(_held(view, 0, header.size))
    contexts: list[SecurityContext] = []
    offset = SecctxHeader.SIZE
    for _ in range(header.nr_secctx):
        size = Secctx.unpack_from(_held(memoryview(held), offset, Secctx.SIZE)).size
        begin = offset + Secctx.SIZE
        end = held.find(b"\0", begin)
        if end < 0 or end + 1 + size > len(held):
            raise ValueError("a security context reaches beyond its header")
        contexts.append(SecurityContext(held[begin:end], held[end + 1 : end + 1 + size]))
        offset = padded(end + 1 + size)
    return tuple(contexts), header.size
