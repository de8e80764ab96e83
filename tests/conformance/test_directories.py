"""Listings: every name once, whatever comes and goes meanwhile."""

from __future__ import annotations

from tests.conformance.place import Place


def test_an_empty_directory_holds_itself_and_its_parent(place: Place) -> None:
    place.mkdir("dir")
    listed = dict(place.listing("dir"))
    assert listed == {".": place.stat("dir").ino, "..": place.stat().ino}


def test_a_listing_holds_every_name_once(place: Place) -> None:
    names = [f"name {number} {'x' * (number % 50)}" for number in range(200)]
    for name in names:
        place.write(name)
    assert sorted(place.names()) == sorted(names)


def test_a_listing_tells_inode_numbers(place: Place) -> None:
    place.write("file")
    place.mkdir("dir")
    place.symlink("x", "link")
    listed = dict(place.listing())
    for name in ("file", "dir", "link"):
        assert listed[name] == place.stat(name).ino


def test_names_that_stay_are_listed_once_while_others_go(place: Place) -> None:
    for number in range(300):
        place.write(f"{number:03}")
    seen = []
    for count, (name, _) in enumerate(place.listing()):
        seen.append(name)
        if count % 5 == 0:
            place.unlink(f"{count // 5 * 4 + 1:03}")
    staying = {f"{number:03}" for number in range(300)} - {f"{step * 4 + 1:03}" for step in range(75)}
    assert staying <= set(seen)
    assert len(seen) == len(set(seen))


def test_names_that_stay_are_listed_once_while_others_come(place: Place) -> None:
    for number in range(100):
        place.write(f"old {number:03}")
    seen = []
    for count, (name, _) in enumerate(place.listing()):
        seen.append(name)
        if count < 100:
            place.write(f"new {count:03}")
    assert {f"old {number:03}" for number in range(100)} <= set(seen)
    assert len(seen) == len(set(seen))


def test_a_tree_can_be_removed_while_it_is_listed(place: Place) -> None:
    for number in range(500):
        place.write(f"{number}")
    for name, _ in place.listing():
        if name not in {".", ".."}:
            place.unlink(name)
    assert place.names() == []


def test_a_name_that_is_replaced_stays_listed_once(place: Place) -> None:
    for number in range(100):
        place.write(f"{number}")
    seen = []
    for name, _ in place.listing():
        seen.append(name)
        if name == "50":
            place.write("replacement")
            place.rename("replacement", "10")
    assert {str(number) for number in range(100)} - {"10"} <= set(seen)
    assert sorted(place.names()) == sorted(str(number) for number in range(100))


def test_syncing_a_directory_and_the_whole_succeeds(place: Place) -> None:
    place.mkdir("dir")
    place.write("dir/file", b"content")
    place.sync("dir")
    place.sync()
