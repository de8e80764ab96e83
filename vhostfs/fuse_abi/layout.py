"""How a C structure becomes a frozen dataclass: fields annotated with C types, one precompiled Struct.

    @structure("fuse_getattr_in")
    class GetattrIn(Structure):
        getattr_flags: U32 = 0
        dummy: U32 = 0
        fh: U64 = 0

As in C, what is not named is 0. Structures nest: a field may be another Structure. Byte order is the
machine's own, as FUSE demands; there is no padding but the fields that <linux/fuse.h> names.
"""

from __future__ import annotations

from collections.abc import Buffer, Callable
from dataclasses import dataclass, fields
from operator import attrgetter
from struct import Struct
from typing import Annotated, Any, ClassVar, Self, cast, dataclass_transform, get_args, get_type_hints

U16 = Annotated[int, "H"]
U32 = Annotated[int, "I"]
U64 = Annotated[int, "Q"]
S32 = Annotated[int, "i"]
S64 = Annotated[int, "q"]


class Structure:
    """Base of all structures on the wire."""

    __slots__ = ()

    C_NAME: ClassVar[str]
    """The structure's name in <linux/fuse.h>."""
    SIZE: ClassVar[int]
    """Its size in bytes at minor version 45."""
    CODEC: ClassVar[Struct]
    """Packs the fields, those of nested structures in their place, as one flat tuple."""
    _values: ClassVar[Callable[[Any], Any]]
    _nested: ClassVar[tuple[tuple[int, int, type[Structure]], ...]]

    def pack(self) -> bytes:
        """Return the SIZE bytes of this structure; struct.error where a field does not fit its C type."""
        return self.CODEC.pack(*self._flat())

    def pack_into(self, buffer: Buffer, offset: int = 0) -> None:
        """Write the SIZE bytes of this structure into a writable buffer; struct.error without room."""
        self.CODEC.pack_into(buffer, offset, *self._flat())

    @classmethod
    def unpack_from(cls, buffer: Buffer, offset: int = 0) -> Self:
        """Read the structure at offset; struct.error where fewer than SIZE bytes follow."""
        return cls._assembled(cls.CODEC.unpack_from(buffer, offset))

    @classmethod
    def unpack_prefix(cls, prefix: Buffer) -> Self:
        """Read what an older minor sends: the first bytes of the structure, the rest of which is 0.

        Bytes beyond SIZE are ignored, as a newer minor may append fields.
        """
        held = bytes(prefix)[: cls.SIZE]
        return cls.unpack_from(held.ljust(cls.SIZE, b"\0"))

    def _flat(self) -> tuple[Any, ...]:
        values = type(self)._values(self)
        return values if type(values) is tuple else (values,)

    @classmethod
    def _assembled(cls, values: tuple[Any, ...]) -> Self:
        if not cls._nested:
            return cls(*values)
        remaining = list(values)
        for position, count, kind in cls._nested:
            part = kind._assembled(tuple(remaining[position : position + count]))
            remaining[position : position + count] = [part]
        return cls(*remaining)


@dataclass_transform(frozen_default=True)
def structure[S: Structure](c_name: str) -> Callable[[type[S]], type[S]]:
    """Make a Structure subclass a slotted frozen dataclass laid out like the C structure of that name."""

    def decorate(declared: type[S]) -> type[S]:
        kind = dataclass(frozen=True, slots=True)(declared)
        hints = get_type_hints(kind, include_extras=True)
        codes, paths = "", []
        nested: list[tuple[int, int, type[Structure]]] = []
        for position, field in enumerate(fields(cast(Any, kind))):
            hint = hints[field.name]
            if isinstance(hint, type) and issubclass(hint, Structure):
                inner = [f"{field.name}.{path}" for path in _paths(hint)]
                nested.append((position, len(inner), hint))
                codes += hint.CODEC.format[1:]
                paths += inner
            else:
                codes += get_args(hint)[1]
                paths.append(field.name)
        kind.C_NAME = c_name
        kind.CODEC = Struct("=" + codes)
        kind.SIZE = kind.CODEC.size
        kind._values = attrgetter(*paths)
        kind._nested = tuple(nested)
        return kind

    return decorate


def _paths(kind: type[Structure]) -> list[str]:
    """Return the attribute paths of the flat fields of a structure, in order."""
    paths: list[str] = []
    nested = {position: inner for position, _, inner in kind._nested}
    for position, field in enumerate(fields(cast(Any, kind))):
        inner = nested.get(position)
        paths += [f"{field.name}.{path}" for path in _paths(inner)] if inner else [field.name]
    return paths
