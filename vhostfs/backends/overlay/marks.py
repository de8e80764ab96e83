"""Overlayfs' own format: how a layer says what it hides of the layers below (overlayfs.rst of Linux).

A whiteout is a character device 0:0, or, in a directory of a lower layer whose attribute `opaque` is "x", an
empty regular file with the attribute `whiteout`. A directory whose `opaque` is "y" hides those of its name
below; one with a `redirect` is merged with another name. The attributes begin with trusted.overlay. or, under
the kernel's mount option userxattr, with user.overlay. .
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from typing import Final

from vhostfs.filesystem import Attr

_ESCAPE: Final = "overlay."


@dataclass(frozen=True, slots=True)
class MarkNames:
    """The names of the extended attributes that are overlayfs' own."""

    prefix: str
    follows_redirects: bool
    """Whether the kernel follows redirects of this kind: it does not under userxattr."""

    @property
    def opaque(self) -> str:
        """Return the name of "y" (hides what is below) or "x" (holds whiteouts that are files)."""
        return self.prefix + "opaque"

    @property
    def redirect(self) -> str:
        """Return the name of the path at which the directories below are."""
        return self.prefix + "redirect"

    @property
    def impure(self) -> str:
        """Return the name of what says that files in a directory show numbers of lower layers."""
        return self.prefix + "impure"

    @property
    def metacopy(self) -> str:
        """Return the name of what says that a file's data is elsewhere."""
        return self.prefix + "metacopy"

    @property
    def whiteout(self) -> str:
        """Return the name of what makes an empty file a whiteout."""
        return self.prefix + "whiteout"

    @property
    def number(self) -> str:
        """Return the name of the st_ino that a file had before it was copied up: vhostfs' own, in decimal.

        Overlayfs leaves alone what it does not know under its prefix, and shows none of it.
        """
        return self.prefix + "vhostfs.ino"

    def stored(self, name: str) -> str:
        """Return how an attribute that a guest names is stored: escaped where it looks like an own one."""
        if name.startswith(self.prefix):
            return self.prefix + _ESCAPE + name.removeprefix(self.prefix)
        return name

    def is_own(self, name: str) -> bool:
        """Tell whether a stored attribute belongs to the overlay, and not to the file."""
        return name.startswith(self.prefix) and not name.startswith(self.prefix + _ESCAPE)

    def shown(self, name: str) -> str | None:
        """Return how a stored attribute is named to a guest; None for those that are overlayfs' own."""
        if not name.startswith(self.prefix):
            return name
        rest = name.removeprefix(self.prefix)
        return self.prefix + rest.removeprefix(_ESCAPE) if rest.startswith(_ESCAPE) else None


TRUSTED: Final = MarkNames("trusted.overlay.", True)
USER: Final = MarkNames("user.overlay.", False)


def is_whiteout(attr: Attr) -> bool:
    """Tell whether a file is the device that stands for a removed name."""
    return attr.rdev == 0 and stat.S_ISCHR(attr.mode)


def checked_redirect(value: bytes) -> str:
    """Return the path of a redirect: one name, or names each behind a slash; OSError EINVAL otherwise."""
    text = os.fsdecode(value)
    names = text[1:].split("/") if text.startswith("/") else [text]
    if any(not name or name in {".", ".."} or "/" in name or "\0" in name for name in names):
        raise OSError(errno.EINVAL, "a directory's overlay.redirect is no path")
    return text
