"""Paths of nodes follow what the kernel is told and what it does."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vhostfs.layers.names import Names


@pytest.fixture
def names() -> Names:
    """Return names of /d (2) with /d/f (3) and /d/e (4), in which there is /d/e/g (5)."""
    names = Names()
    names.add(1, "d", 2, is_directory=True)
    names.add(2, "f", 3, is_directory=False)
    names.add(2, "e", 4, is_directory=True)
    names.add(4, "g", 5, is_directory=False)
    return names


def paths(names: Names, node: int) -> list[str]:
    known = names.known(node)
    assert known is not None
    return names.paths(known)


def test_a_path_is_made_of_names(names: Names) -> None:
    assert [names.path(node) for node in (1, 2, 3, 5)] == ["/", "/d", "/d/f", "/d/e/g"]
    assert names.path_below(4, "new") == "/d/e/new"


def test_all_that_is_below_a_directory_moves_with_it(names: Names) -> None:
    names.rename(1, "d", 1, "moved", exchange=False)
    assert [names.path(node) for node in (2, 3, 5)] == ["/moved", "/moved/f", "/moved/e/g"]
    names.rename(2, "e", 1, "e", exchange=False)
    assert names.path(5) == "/e/g"


def test_a_hard_link_is_one_more_path(names: Names) -> None:
    names.add(4, "h", 3, is_directory=False)
    assert paths(names, 3) == ["/d/f", "/d/e/h"]
    names.remove(2, "f")
    assert paths(names, 3) == ["/d/e/h"]


def test_what_lost_its_last_name_keeps_its_last_path(names: Names) -> None:
    names.remove(4, "g")
    assert paths(names, 5) == ["/d/e/g"]
    names.rename(2, "f", 4, "x", exchange=False)
    names.add(2, "other", 6, is_directory=False)
    names.rename(2, "other", 4, "x", exchange=False)
    assert paths(names, 3) == ["/d/e/x"]
    assert paths(names, 6) == ["/d/e/x"]


def test_an_exchange_swaps_names(names: Names) -> None:
    names.rename(2, "f", 2, "e", exchange=True)
    assert [names.path(node) for node in (3, 4, 5)] == ["/d/e", "/d/f", "/d/f/g"]


def test_two_names_of_one_file_are_not_renamed_into_each_other(names: Names) -> None:
    names.add(4, "h", 3, is_directory=False)
    names.rename(2, "f", 4, "h", exchange=False)
    assert paths(names, 3) == ["/d/f", "/d/e/h"]


def test_a_name_that_the_host_gave_to_another_file_is_no_longer_the_first_ones(names: Names) -> None:
    names.add(2, "f", 9, is_directory=False)
    assert names.path(9) == "/d/f"
    names.add(1, "f", 3, is_directory=False)
    assert paths(names, 3) == ["/f"]


def test_what_a_guest_forgets_in_whatever_order_is_found_again_by_its_path(names: Names) -> None:
    for node in (2, 4):
        names.forget(node)
    assert names.path(5) == "/d/e/g"
    names.add(1, "d", 2, is_directory=True)
    names.rename(1, "d", 1, "moved", exchange=False)
    assert names.path(5) == "/moved/e/g"
    for node in (5, 3, 2):
        names.forget(node)
    assert [names.known(node) for node in (2, 3, 4, 5)] == [None] * 4


def test_a_file_that_never_had_a_name_is_in_its_directory(names: Names) -> None:
    names.add_unnamed(4, 7)
    assert names.path(7) == "/d/e/#7"


NODE = st.integers(1, 6)
NAME = st.sampled_from("abc")
CHANGES = st.one_of(
    st.tuples(st.just("add"), NODE, NAME, NODE, st.booleans()),
    st.tuples(st.just("rename"), NODE, NAME, NODE, NAME, st.booleans()),
    st.tuples(st.just("remove"), NODE, NAME),
    st.tuples(st.just("forget"), NODE),
    st.tuples(st.just("add_unnamed"), NODE, NODE),
)


def change(names: Names, operation: str, *arguments: Any) -> None:
    if operation == "add":
        names.add(*arguments[:-1], is_directory=arguments[-1])
    elif operation == "rename":
        names.rename(*arguments[:-1], exchange=arguments[-1])
    else:
        getattr(names, operation)(*arguments)


@given(st.lists(CHANGES, max_size=12))
def test_a_path_is_the_same_whether_it_was_asked_for_before_or_not(changes: list[tuple[Any, ...]]) -> None:
    asked, unasked = Names(), Names()
    for each in changes:
        change(asked, *each)
        change(unasked, *each)
        for node in range(1, 7):
            asked.path(node)
    assert [asked.path(node) for node in range(1, 7)] == [unasked.path(node) for node in range(1, 7)]
