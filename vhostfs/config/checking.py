"""Checking a file against types: strict models, and what pydantic finds wrong, told in our words."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, Final, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.functional_validators import AfterValidator

from vhostfs.config.yaml_document import Fault, YamlDocument, YamlPath, dotted

STRICT: Final = ConfigDict(extra="forbid", strict=True)
"""No key that is not declared, no value that only resembles the right one."""

REASONS: Final = {
    "missing": "missing",
    "bool_type": "should be true or false",
    "dict_type": "should be a mapping",
    "model_type": "should be a mapping",
    "dataclass_type": "should be a mapping",
    "list_type": "should be a list",
    "tuple_type": "should be a list",
    "string_type": "should be text; put it in quotes",
    "int_type": "should be a whole number",
    "float_type": "should be a number",
    "too_short": "should not be empty",
    "string_too_short": "should not be empty",
}
"""What pydantic's kinds of errors are called here; the others keep its words."""

UNKNOWN_KEYS: Final = frozenset({"extra_forbidden", "unexpected_keyword_argument"})
"""What pydantic calls a key that is not declared, in a model and in a dataclass."""


def checked_path(path: str) -> str:
    """Return a path of the host; ValueError where it is not absolute, or none at all."""
    if not path.startswith("/"):
        raise ValueError("should be an absolute path")
    if "\0" in path:
        raise ValueError("should not contain NUL")
    return path


AbsolutePath = Annotated[str, AfterValidator(checked_path)]


class Part(BaseModel):
    """A mapping of the file."""

    model_config = STRICT


def faults_of(
    error: ValidationError, document: YamlDocument, path: YamlPath, checked: Any, others: Sequence[str] = ()
) -> Iterator[Fault]:
    """Yield what pydantic found wrong with what stands at a path of a document.

    `checked` is the type that it was checked against, `others` are keys that the mapping at the path may have
    besides.
    """
    for detail in error.errors(include_url=False):
        inner: YamlPath = tuple(detail["loc"])
        place = (*path, *inner)
        if detail["type"] in UNKNOWN_KEYS:
            known = [*known_keys(checked, inner[:-1]), *(others if len(inner) == 1 else ())]
            yield Fault(document.place(place), dotted(place), unknown_key(str(inner[-1]), known))
        else:
            words = re.sub(r"^(Value error, |Input )", "", detail["msg"])
            yield Fault(document.place_of_value(place), dotted(place), REASONS.get(detail["type"], words))


def unknown_key(key: str, known: Sequence[str]) -> str:
    """Return a proposal for a key that is not declared."""
    close = difflib.get_close_matches(key, known, n=1)
    if close:
        return f"unknown key; did you mean {close[0]}?"
    return f"unknown key; known here: {', '.join(known)}" if known else "unknown key; none is known here"


def known_keys(checked: Any, path: YamlPath) -> list[str]:
    """Return the keys of the mapping that a type has at a path, in the order of their declaration."""
    for step in path:
        checked = _below(checked, step)
    mapping = _mapping(checked)
    return list(_keys(mapping)) if mapping is not None else []


def _keys(mapping: type) -> dict[str, Any]:
    if issubclass(mapping, BaseModel):
        return {name: field.annotation for name, field in mapping.model_fields.items()}
    hints = get_type_hints(mapping)
    return {field.name: hints[field.name] for field in fields(mapping) if field.init}  # type: ignore[arg-type]


def _below(checked: Any, step: str | int) -> Any:
    mapping = _mapping(checked)
    if mapping is not None:
        return _keys(mapping).get(str(step))
    arguments = get_args(checked)
    return arguments[-1 if get_origin(checked) is dict else 0] if arguments else None


def _mapping(checked: Any) -> type | None:
    """Return the model or dataclass that a type is, or allows among others."""
    if isinstance(checked, type) and (issubclass(checked, BaseModel) or is_dataclass(checked)):
        return checked
    if get_origin(checked) in {list, tuple, dict}:
        return None
    return next((found for each in get_args(checked) if (found := _mapping(each)) is not None), None)
