"""The journal's log: what is written is found again, and what was damaged costs no more than itself."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vhostfs.backends.s3.journal.intents import Intent
from vhostfs.backends.s3.journal.journal import LOG, Journal
from vhostfs.backends.s3.journal.records import MAGIC, Scan, encoded_record
from vhostfs.backends.s3.journal.state import StateDirectory
from vhostfs.backends.s3.store import Headers

NUMBER = "0123456789abcdef"


def _opened(path: Path) -> Journal:
    return Journal(StateDirectory(path, "store", "bucket", "", make=True))


def _intent(number: str = NUMBER, key: str = "file") -> Intent:
    headers = Headers({"mode": "1"}, {})
    return Intent(number, key, stat.S_IFREG, None, 4, 0, headers, has_data=True, extents=[])


def _journal_with_files(path: Path, count: int) -> None:
    journal = _opened(path)
    for each in range(count):
        number = f"{each:016x}"
        (path / "data").write_bytes(b"data")
        os.rename(path / "data", f"{number}.data", dst_dir_fd=journal.state.descriptor)
        intent = _intent(number, f"file-{each}")
        intent.extents = [(0, 4)]
        journal.enter(intent, journal.state.found(f"{number}.data"), inline=[(0, 4)])
    journal.close()


def test_what_was_entered_is_found_again(tmp_path: Path) -> None:
    """As it was, until it is done."""
    journal = _opened(tmp_path)
    first, second = _intent(), _intent("f" * 16, "other \N{SNOWMAN}")
    journal.enter(first)
    journal.enter(second)
    journal.leave(first)
    journal.close()
    journal = _opened(tmp_path)
    assert journal.intents == {second.number: second}
    journal.leave(journal.intents[second.number])
    journal.close()
    journal = _opened(tmp_path)
    assert not journal.intents
    journal.close()


def test_the_latest_of_two_writes_is_found(tmp_path: Path) -> None:
    """Also where the earlier one lies in the log and the later one in the file."""
    journal = _opened(tmp_path)
    file = journal.state.new()
    assert file.number is not None
    os.pwrite(file.descriptor, b"0123456789", 0)
    intent = Intent(file.number, "file", stat.S_IFREG, size=10, has_data=True, extents=[(0, 10)])
    journal.enter(intent, file, inline=[(0, 10)])
    os.pwrite(file.descriptor, b"later", 4)
    journal.enter(intent, file, filed=[(4, 9)])
    os.pwrite(file.descriptor, b"torn", 0)
    file.leave()
    journal.close()
    journal = _opened(tmp_path)
    assert journal.state.found(f"{intent.number}.data").read(0, 100) == b"0123later9"
    journal.close()


def test_another_version_is_set_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With a sentence, and nothing of it is deleted."""
    _journal_with_files(tmp_path, 1)
    [log] = tmp_path.glob(f"*/{LOG}")
    content = encoded_record({"is": "journal", "format": 99, "name": "n", "sequence": 1})
    log.write_bytes(content)
    journal = _opened(tmp_path)
    journal.close()
    [aside] = tmp_path.glob("*/damaged-*/journal")
    assert aside.read_bytes() == content
    assert [each.read_bytes() for each in tmp_path.glob("*/damaged-*/*.data")] == [b"data"]
    assert "another version" in caplog.text


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_no_damage_keeps_a_daemon_from_starting(data: st.DataObject) -> None:
    """Whatever the log holds; what is whole in it still holds."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory)
        _journal_with_files(path, 4)
        [log] = path.glob(f"*/{LOG}")
        content = bytearray(log.read_bytes())
        for _ in range(data.draw(st.integers(0, 3))):
            at = data.draw(st.integers(0, len(content) - 1))
            content[at : at + data.draw(st.integers(0, 20))] = data.draw(st.binary(max_size=20))
        whole = {
            record.said.get("number")
            for record in Scan(memoryview(bytes(content))).records()
            if record.said.get("is") == "intent"
        }
        log.write_bytes(content)
        journal = _opened(path)
        assert {number for number in journal.intents if not journal.intents[number].conflict} <= whole
        journal.close()


@given(st.binary(max_size=200))
def test_bytes_that_are_no_log_hold_no_records(junk: bytes) -> None:
    """Also when they look a little like one."""
    assert not list(Scan(memoryview(MAGIC + junk + MAGIC)).records())
    assert [each.said for each in Scan(memoryview(junk + encoded_record({"a": 1}))).records()] == [{"a": 1}]
