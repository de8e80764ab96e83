"""One YAML file as plain data, with the place of every key and value.

Scalars are read as YAML 1.2 reads them, with one exception: `yes`, `no`, `on`, `off` and octal numbers with a
leading 0 stay text, so that what was written can be judged by whoever knows what the key means.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import yaml

type YamlPath = tuple[str | int, ...]
type YamlValue = bool | int | float | str | list["YamlValue"] | dict[str, "YamlValue"] | None


@dataclass(frozen=True, slots=True)
class Place:
    """A position in a file; both count from 1."""

    line: int
    column: int

    @classmethod
    def of(cls, mark: yaml.Mark) -> Place:
        """Convert PyYAML's position, which counts from 0."""
        return cls(mark.line + 1, mark.column + 1)


@dataclass(frozen=True, slots=True)
class Fault:
    """Something wrong at a place of the file; `key` is the dotted path to it, empty for the whole file."""

    place: Place
    key: str
    reason: str


def dotted(path: YamlPath) -> str:
    """Write a path as people do: devices[0].socket.path."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            text += f".{step}" if text else step
    return text


class _Loader(yaml.SafeLoader):
    """Composes nodes; its own table of implicit types follows."""

    # PyYAML looks the table up on the class; SafeLoader's own holds the types of YAML 1.1.
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012


NULL: Final = "tag:yaml.org,2002:null"
BOOL: Final = "tag:yaml.org,2002:bool"
INT: Final = "tag:yaml.org,2002:int"
FLOAT: Final = "tag:yaml.org,2002:float"
STRING: Final = "tag:yaml.org,2002:str"

SCALARS: Final[dict[str, Callable[[str], YamlValue]]] = {
    NULL: lambda _: None,
    BOOL: lambda text: bool(("false", "true").index(text.lower())),
    INT: int,
    FLOAT: float,
    STRING: str,
}
"""How the text of a scalar becomes its value; a ValueError where it cannot."""

for _tag, _pattern, _first in (
    (NULL, r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    (BOOL, r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    (INT, r"[-+]?(0|[1-9][0-9]*)", list("-+0123456789")),
    (FLOAT, r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
):
    _Loader.add_implicit_resolver(_tag, re.compile(rf"^(?:{_pattern})$"), _first)


VALUES_LIMIT: Final = 100_000
"""Most values of a document, where an alias counts as all that it stands for, lest few lines be billions."""


class YamlDocument:
    """The data of a file, what is wrong with its form, and where everything stands."""

    def __init__(self, text: str) -> None:
        """Read the text; what is wrong with it is in `faults`, what could be read all the same in `data`."""
        self.data: YamlValue = None
        self.faults: list[Fault] = []
        self._room = VALUES_LIMIT
        self._keys: dict[YamlPath, Place] = {}
        self._values: dict[YamlPath, Place] = {(): Place(1, 1)}
        try:
            node = yaml.compose(text, _Loader)
            if node is not None:
                self.data = self._value(node, (), ())
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            reason = " ".join(part for part in (error.context, error.problem) if part)
            self.faults.append(Fault(Place.of(mark) if mark else Place(1, 1), "", reason))
        except yaml.reader.ReaderError as error:
            self.faults.append(Fault(_place_of_offset(text, error.position), "", error.reason))
        except RecursionError:
            self.faults.append(Fault(Place(1, 1), "", "nested too deeply"))

    def place(self, path: YamlPath) -> Place:
        """Return where a key stands, or, if it is not there, the nearest one that holds it."""
        while path:
            if path in self._keys:
                return self._keys[path]
            if path in self._values:
                return self._values[path]
            path = path[:-1]
        return self._values[()]

    def place_of_value(self, path: YamlPath) -> Place:
        """Return where a key's value stands, or, if it is not there, the nearest one that holds it."""
        return self._values[path] if path in self._values else self.place(path)

    def _value(self, node: yaml.Node, path: YamlPath, above: tuple[yaml.Node, ...]) -> YamlValue:
        place = Place.of(node.start_mark)
        self._values[path] = place
        if any(node is ancestor for ancestor in above):
            self.faults.append(Fault(place, dotted(path), "an alias contains itself"))
            return None
        self._room -= 1
        if self._room <= 0:
            if self._room == 0:
                reason = f"more than {VALUES_LIMIT} values, counting what aliases stand for"
                self.faults.append(Fault(place, dotted(path), reason))
            return None
        above = (*above, node)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path, above)
        if isinstance(node, yaml.SequenceNode):
            return [self._value(item, (*path, index), above) for index, item in enumerate(node.value)]
        return self._scalar(node, path, place)

    def _mapping(
        self, node: yaml.MappingNode, path: YamlPath, above: tuple[yaml.Node, ...]
    ) -> dict[str, YamlValue]:
        data: dict[str, YamlValue] = {}
        for key_node, value_node in node.value:
            place = Place.of(key_node.start_mark)
            if not isinstance(key_node, yaml.ScalarNode):
                self.faults.append(Fault(place, dotted(path), "a key is not plain text"))
                continue
            key = str(key_node.value)
            if key in data:
                first = self._keys[(*path, key)]
                reason = f"duplicate key, first given in line {first.line}"
                self.faults.append(Fault(place, dotted((*path, key)), reason))
                continue
            self._keys[(*path, key)] = place
            data[key] = self._value(value_node, (*path, key), above)
        return data

    def _scalar(self, node: yaml.Node, path: YamlPath, place: Place) -> YamlValue:
        text = str(node.value)
        try:
            return SCALARS[str(node.tag)](text)
        except KeyError:
            self.faults.append(Fault(place, dotted(path), f"the YAML tag {node.tag} means nothing here"))
        except ValueError:
            self.faults.append(Fault(place, dotted(path), f"not of the YAML type {node.tag}"))
        return None


def _place_of_offset(text: str, offset: int) -> Place:
    before = text[:offset]
    return Place(before.count("\n") + 1, offset - (before.rfind("\n") + 1) + 1)
