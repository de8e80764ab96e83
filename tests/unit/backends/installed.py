"""A package that adds types of mounts and layers, as a test installs one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vhostfs.backends import catalogue

MODULE = """\
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Annotated

from pydantic import Field

from vhostfs.backends.contract import Backend, Layer
from vhostfs.filesystem import Filesystem, Wrapper


class Unit(StrEnum):
    SECONDS = "seconds"
    HOURS = "hours"


@dataclass(frozen=True, slots=True)
class Zone:
    name: str
    hours: int = 0


class Clock(Filesystem[None]):
    def __init__(self, settings):
        self.settings = settings


@dataclass(frozen=True, slots=True)
class ClockSettings(Backend):
    path: PurePosixPath = PurePosixPath("/")
    unit: Unit = Unit.SECONDS
    speed: float = 1.0
    digits: Annotated[int, Field(ge=1, le=9)] = 2
    zones: tuple[Zone, ...] = ()
    names: dict[str, str] = field(default_factory=dict)

    def __post_init__(self):
        if self.speed < 0:
            raise ValueError("a clock does not run backwards")

    def open(self):
        return Clock(self)


@dataclass(frozen=True, slots=True)
class PileSettings(Backend):
    lower: tuple[Backend, ...]
    upper: Backend | None = None

    def open(self):
        return Clock([each.open() for each in self.lower])


class RemoteSettings(ClockSettings):
    network = True


class Tinted(Wrapper):
    def __init__(self, inner, colour):
        super().__init__(inner)
        self.colour = colour


@dataclass(frozen=True, slots=True)
class TintSettings(Layer):
    colour: str

    def wrap(self, inner):
        return Tinted(inner, self.colour)
"""

ENTRY_POINTS = """\
[vhostfs.backends]
clock = horology:ClockSettings
pile = horology:PileSettings
remote = horology:RemoteSettings
broken = horology.missing:Settings
lost = horology:Missing
string = horology:MODULE

[vhostfs.layers]
tint = horology:TintSettings
"""

type Install = Callable[[str, str], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Install packages of a name, with these entry points, for one test."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def put(name: str, entry_points: str) -> None:
        about = tmp_path / f"{name}-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text(entry_points)
        catalogue._installed.cache_clear()

    yield put
    catalogue._installed.cache_clear()


@pytest.fixture
def horology(tmp_path: Path, install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install a package with the types clock, pile and remote, the layer tint, and some that are broken."""
    (tmp_path / "horology.py").write_text(MODULE + '\nMODULE = "no type"\n')
    monkeypatch.delitem(__import__("sys").modules, "horology", raising=False)
    install("horology", ENTRY_POINTS)
