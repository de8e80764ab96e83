"""A YAML document is plain data, and knows the place of everything in it."""

from __future__ import annotations

import pytest

from vhostfs.config.yaml_document import VALUES_LIMIT, Place, YamlDocument, YamlPath, dotted

TEXT = """\
devices:
  - tag: home
    socket:
      path: /run/s
  - {tag: work, queues: [1, 2]}
"""


@pytest.mark.parametrize(
    ("path", "key", "value"),
    [
        ((), Place(1, 1), Place(1, 1)),
        (("devices",), Place(1, 1), Place(2, 3)),
        (("devices", 0), Place(2, 5), Place(2, 5)),
        (("devices", 0, "tag"), Place(2, 5), Place(2, 10)),
        (("devices", 0, "socket", "path"), Place(4, 7), Place(4, 13)),
        (("devices", 1, "queues", 1), Place(5, 29), Place(5, 29)),
    ],
)
def test_every_key_and_value_has_its_line_and_column(path: YamlPath, key: Place, value: Place) -> None:
    document = YamlDocument(TEXT)
    assert document.faults == []
    assert (document.place(path), document.place_of_value(path)) == (key, value)


def test_what_is_missing_stands_where_it_should_be() -> None:
    document = YamlDocument(TEXT)
    assert document.place(("devices", 0, "socket", "mode")) == Place(3, 5)
    assert document.place_of_value(("devices", 0, "mounts", "/", "cache")) == Place(2, 5)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("~", None),
        ("null", None),
        ("", None),
        ("true", True),
        ("False", False),
        ("0", 0),
        ("-12", -12),
        ("1.5", 1.5),
        ("2e3", 2000.0),
        ("yes", "yes"),
        ("off", "off"),
        ("0660", "0660"),
        ("0o660", "0o660"),
        ("0x1f", "0x1f"),
        ("1_000", "1_000"),
        ("12:30", "12:30"),
        ("2026-01-31", "2026-01-31"),
        ("'12'", "12"),
        ('"true"', "true"),
        ("!!str 12", "12"),
    ],
)
def test_a_scalar_is_what_yaml_1_2_calls_it_and_text_otherwise(text: str, value: object) -> None:
    document = YamlDocument(f"key: {text}")
    assert document.faults == []
    assert document.data == {"key": value}


@pytest.mark.parametrize(
    ("text", "line", "column", "key", "reason"),
    [
        ("a: 1\nb: 2\na: 3", 3, 1, "a", "duplicate key, first given in line 1"),
        ("a:\n  - {b: 1,\n     b: 2}", 3, 6, "a[0].b", "duplicate key, first given in line 2"),
        ("a: &x [*x]", 1, 4, "a[0]", "an alias contains itself"),
        ("? [a]\n: b", 1, 3, "", "a key is not plain text"),
        ("a: !thing b", 1, 4, "a", "the YAML tag !thing means nothing here"),
        ("a: !!int b", 1, 4, "a", "not of the YAML type tag:yaml.org,2002:int"),
        ("a: !!bool maybe", 1, 4, "a", "not of the YAML type tag:yaml.org,2002:bool"),
        ("a: b: c", 1, 5, "", "mapping values are not allowed here"),
        ("a: 1\n b: 2", 2, 3, "", "mapping values are not allowed here"),
        ("ok: 1\nbad: \x01", 2, 6, "", "special characters are not allowed"),
        (
            "---\na: 1\n---\nb: 2",
            3,
            1,
            "",
            "expected a single document in the stream but found another document",
        ),
    ],
)
def test_a_fault_of_form_names_its_place(text: str, line: int, column: int, key: str, reason: str) -> None:
    (fault,) = YamlDocument(text).faults
    assert (fault.place, fault.key, fault.reason) == (Place(line, column), key, reason)


def test_all_faults_of_form_are_found_at_once() -> None:
    faults = YamlDocument("a: 1\na: 2\nb: !x 3\nc: {d: 1, d: 2}").faults
    assert [fault.key for fault in faults] == ["a", "b", "c.d"]


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ((), ""),
        (("a",), "a"),
        (("a", 0, "b"), "a[0].b"),
        (("devices", 1, "mounts", "/", "cache"), "devices[1].mounts./.cache"),
    ],
)
def test_a_path_reads_as_people_write_it(path: YamlPath, text: str) -> None:
    assert dotted(path) == text


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ("{a: ", "}"), ("- ", "")])
def test_what_is_nested_without_end_is_a_fault_of_form(opening: str, closing: str) -> None:
    for depth in (*range(50, 1000, 50), 30_000):
        document = YamlDocument(opening * depth + closing * depth)
        assert [fault.reason for fault in document.faults] in ([], ["nested too deeply"])
    assert document.faults


def test_a_few_lines_of_aliases_cannot_stand_for_billions_of_values() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 30)]
    document = YamlDocument("\n".join(lines))
    assert [fault.reason for fault in document.faults] == [
        f"more than {VALUES_LIMIT} values, counting what aliases stand for"
    ]
