"""Patterns of paths match what they describe, and nothing else."""

from __future__ import annotations

import time

import pytest

from vhostfs.layers.patterns import PathPattern, names_of


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("/", ["/"], ["/a"]),
        ("/**", ["/", "/a", "/a/b/c"], []),
        ("/etc", ["/etc"], ["/", "/etc/passwd", "/etcetera"]),
        ("/etc/**", ["/etc", "/etc/a", "/etc/a/b"], ["/", "/etcetera", "/a/etc"]),
        ("/home/*/.ssh", ["/home/a/.ssh"], ["/home/.ssh", "/home/a/b/.ssh", "/home/a/.ssh/id"]),
        ("/**/*.key", ["/a.key", "/a/b.key", "/a/b/.key"], ["/a.keys", "/a.key/b"]),
        ("/**/secret/**", ["/secret", "/a/secret", "/secret/b", "/a/b/secret/c/d"], ["/a/secrets", "/"]),
        ("/a?[0-9]", ["/ab1", "/aa0"], ["/a1", "/ab", "/abc"]),
        ("/a/**/**/b", ["/a/b", "/a/c/b", "/a/c/d/b"], ["/a", "/a/b/c"]),
        ("/x*y", ["/xy", "/x\ny", "/x\udcffy"], ["/x/y"]),
    ],
)
def test_a_pattern_matches_names_as_a_shell_does(
    pattern: str, matching: list[str], others: list[str]
) -> None:
    read = PathPattern(pattern)
    assert [path for path in matching if not read.matches(names_of(path))] == []
    assert [path for path in others if read.matches(names_of(path))] == []


@pytest.mark.parametrize("pattern", ["", "etc", "/a/../b", "/./a", "/a**", "/**a/b"])
def test_what_is_no_pattern_is_told(pattern: str) -> None:
    with pytest.raises(ValueError, match="the pattern"):
        PathPattern(pattern)


@pytest.mark.parametrize(
    ("pattern", "path", "below"),
    [
        ("/a/b", "/", True),
        ("/a/b", "/a", True),
        ("/a/b", "/a/b", False),
        ("/a/b", "/c", False),
        ("/a/**", "/a/b", True),
        ("/**/x", "/c/d", True),
    ],
)
def test_it_is_known_what_may_match_below_a_path(pattern: str, path: str, below: bool) -> None:
    read = PathPattern(pattern)
    assert read.matches_below(read.states(names_of(path))) is below


def test_paths_that_lead_equally_far_match_alike_below() -> None:
    read = PathPattern("/a/**/x")
    assert read.states(["a", "b"]) == read.states(["a", "c", "d"])
    assert read.states(["a", "b"]) != read.states(["b"])


def test_no_name_of_a_guest_makes_matching_slow() -> None:
    read = PathPattern("/**/a*a*a*a*a*a*b/**/a*a*a*c/**/x")
    begin = time.process_time()
    read.matches(["a" * 255] * 200)
    assert time.process_time() - begin < 5, "matching took as long as only exponential matching does"
