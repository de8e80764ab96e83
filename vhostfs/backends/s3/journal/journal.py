"""The journal: one log of intents, uploads and renames, and files of data beside it.

A record is the whole of an intent as it is now, so that the last one holds and a damaged one costs itself
alone. A little data goes into the log with it; more is made durable in its own file before the record is
written. All who wait for what they wrote to be durable share one fdatasync.

When the log has grown, and at each start, it is written anew with what still holds.
"""

from __future__ import annotations

import asyncio
import logging
import mmap
import os
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from vhostfs.backends.ranges import Ranges
from vhostfs.backends.s3.journal import renames
from vhostfs.backends.s3.journal.intents import Entered, Intent, Stretch, said, understood
from vhostfs.backends.s3.journal.records import FORMAT, Record, Scan, encoded_record
from vhostfs.backends.s3.journal.renames import Rename
from vhostfs.backends.s3.journal.state import DATA, StateDirectory
from vhostfs.backends.s3.spool import SpoolFile

logger = logging.getLogger(__name__)

LOG: Final = "journal"
NEXT_LOG: Final = "journal.next"
INLINE_MAXIMUM: Final = 128 << 10
"""How much data goes into the log itself."""

LOG_MAXIMUM: Final = 64 << 20
"""How far the log grows before it is written anew."""

LOG_IDLE_MAXIMUM: Final = 1 << 20
"""The same, while it holds nothing."""

SEQUENCE_GAP: Final = 1 << 32
"""Added at each start: the last numbers of the one before may not have been written down."""

_COPY_PIECE: Final = 1 << 20


@dataclass(slots=True)
class UploadNote:
    """An upload in parts that was begun, or is about to be."""

    number: str
    key: str
    begun: float
    upload: str | None = None
    """Its name, which the store gives; None until that has answered."""


class Journal:
    """What is promised and not yet in the bucket. For one event loop, save `open` and `close`."""

    def __init__(self, state: StateDirectory) -> None:
        """Find what an earlier daemon has left; raise OSError."""
        self.state = state
        self.intents: dict[str, Intent] = {}
        self.uploads: dict[str, UploadNote] = {}
        self.renames: dict[str, Rename] = {}
        self.name = secrets.token_hex(4)
        """Tells this mount's writes from those of others; it stays the same as long as the journal."""
        self._sequence = 0
        self._log = self._old_log = -1
        self._size = 0
        self._appended = 0
        self._durable = 0
        self._synchronizing: asyncio.Task[None] | None = None
        self._old_size = 0
        self._failed = False
        self._recover()

    # ---- What is promised ----

    def next_sequence(self) -> int:
        """Return a number that is greater than all before."""
        self._sequence += 1
        return self._sequence

    def nonce(self, number: str) -> str:
        """Return what tells of an object that it holds all that was entered of an intent so far."""
        return f"{self.name}.{number}.{self.next_sequence():x}"

    def knows(self, nonce: str, number: str) -> int | None:
        """Return which state of an intent an object has that carries a nonce; None for another's object."""
        name, _, rest = nonce.partition(".")
        its_number, _, sequence = rest.partition(".")
        if name != self.name or its_number != number:
            return None
        try:
            return int(sequence, 16)
        except ValueError:
            return None

    def enter(
        self,
        intent: Intent,
        file: SpoolFile | None = None,
        inline: Sequence[Stretch] = (),
        filed: Sequence[Stretch] = (),
    ) -> None:
        """Write an intent down, with bytes of its file; it holds from now on, and outlives the process.

        What is `filed` is durable in the file already. Raise OSError.
        """
        intent.sequence = self.next_sequence()
        text, data = said(intent, inline, filed)
        pieces = [data]
        for begin, end in inline:
            assert file is not None
            pieces.append(_read(file.descriptor, begin, end))
        self._append(text, b"".join(pieces))
        self.intents[intent.number] = intent

    def leave(self, intent: Intent) -> None:
        """Note that an intent is in the bucket, or was given up."""
        if self.intents.pop(intent.number, None) is not None:
            self._append_surely({"is": "done", "number": intent.number})

    # ---- Uploads ----

    async def upload_begins(self, key: str) -> UploadNote:
        """Note that an upload is about to begin, and return when that is durable; raise OSError."""
        note = UploadNote(secrets.token_hex(8), key, time.time())
        self._append({"is": "upload", "number": note.number, "key": key, "begun": note.begun})
        self.uploads[note.number] = note
        await self.durable()
        return note

    async def upload_begun(self, note: UploadNote, upload: str) -> None:
        """Note an upload's name, before it has parts; raise OSError."""
        note.upload = upload
        self._append(_noted(note))
        await self.durable()

    def upload_ended(self, note: UploadNote) -> None:
        """Note that an upload was completed or aborted."""
        if self.uploads.pop(note.number, None) is not None:
            self._append_surely({"is": "ended", "number": note.number})

    # ---- Renames ----

    async def rename_begins(self, rename: Rename) -> None:
        """Note that something is about to be renamed, and return when that is durable; raise OSError."""
        self._append(renames.said(rename))
        self.renames[rename.number] = rename
        try:
            await self.durable()
        except BaseException:
            self.rename_ended(rename)
            raise

    def rename_copied(self, rename: Rename, key: str) -> None:
        """Note what became of a copy."""
        self._append_surely(renames.said_copied(rename, key, rename.copies[key]))

    def rename_happened(self, rename: Rename, etags: Mapping[str, str | None]) -> None:
        """Note that all is copied, and at once which intents have other keys and ETags; raise OSError.

        It is to be durable before anything is deleted.
        """
        moved = renames.said_moved(etags)
        self._append({**renames.said(rename), "happened": True}, moved)
        rename.happened = True
        renames.move(rename, self.intents, moved)

    def rename_ended(self, rename: Rename) -> None:
        """Note that nothing is to be done for a rename any more."""
        if self.renames.pop(rename.number, None) is not None:
            self._append_surely({"is": "renamed", "number": rename.number})

    # ---- Durability ----

    async def durable(self) -> None:
        """Return when all that was written down so far would outlive the host's power; raise OSError."""
        wanted = self._appended
        while self._durable < wanted:
            if self._synchronizing is None:
                self._synchronizing = asyncio.ensure_future(self._synchronize())
            await asyncio.shield(self._synchronizing)

    async def file_durable(self, file: SpoolFile, *, new: bool) -> None:
        """Return when a file's data would outlive the host's power, and its name if it is new."""
        descriptor = os.dup(file.descriptor)

        def work() -> None:
            try:
                os.fdatasync(descriptor)
                if new:
                    self.state.synchronize()
            finally:
                os.close(descriptor)

        await asyncio.get_running_loop().run_in_executor(None, work)

    async def _synchronize(self) -> None:
        try:
            if self._failed or self._size > (
                LOG_MAXIMUM if self.intents or self.renames else LOG_IDLE_MAXIMUM
            ):
                await self._renew()
            reached, log, is_new = self._appended, self._log, self._old_log >= 0

            def work() -> None:
                os.fdatasync(log)
                if is_new:
                    self.state.rename(NEXT_LOG, LOG)
                    self.state.synchronize()

            try:
                await asyncio.get_running_loop().run_in_executor(None, work)
            except OSError:
                self._failed = True  # what was not written may be forgotten: all of it is written again
                raise
            if is_new:
                os.close(self._old_log)
                self._old_log = -1
            self._failed = False
            self._durable = reached
        finally:
            self._synchronizing = None

    async def _renew(self) -> None:
        """Begin another log with what still holds."""
        files = [intent.number for intent in self.intents.values() if intent.extents]
        before = {number: self.intents[number].sequence for number in files}
        await asyncio.get_running_loop().run_in_executor(None, self._files_durable, files)
        # What was entered meanwhile has its bytes in the old log alone, perhaps.
        held = self.intents.values()
        late = [each.number for each in held if each.extents and before.get(each.number) != each.sequence]
        self._files_durable(late)
        self._write_anew()

    def _files_durable(self, numbers: Sequence[str]) -> None:
        for number in numbers:
            try:
                descriptor = self.state.open(f"{number}{DATA}")
            except FileNotFoundError:
                continue
            try:
                os.fdatasync(descriptor)
            finally:
                os.close(descriptor)
        self.state.synchronize()

    def _write_anew(self) -> None:
        """Write a log with what holds; it takes the old one's place when it is durable.

        Until then what is written down goes into both: whichever is found holds.
        """
        self.state.unlink(NEXT_LOG)
        records = [{"is": "journal", "format": FORMAT, "name": self.name, "sequence": self._sequence}]
        records += [_noted(note) for note in self.uploads.values()]
        for rename in self.renames.values():
            records.append(renames.said(rename))
            records += [renames.said_copied(rename, *each) for each in rename.copies.items()]
        log = self.state.create(NEXT_LOG, os.O_APPEND)
        size = 0
        try:
            for text in records:
                size = _write(log, size, encoded_record(text))
            for intent in self.intents.values():
                size = _write(log, size, encoded_record(*said(intent, (), intent.extents)))
        except BaseException:
            os.close(log)
            raise
        if self._old_log < 0:
            self._old_log, self._old_size = self._log, self._size
        else:
            os.close(self._log)  # one that never took its place
        self._log, self._size = log, size

    def _append(self, text: dict[str, Any], data: bytes = b"") -> None:
        record = encoded_record(text, data)
        if self._old_log >= 0:
            self._old_size = _write(self._old_log, self._old_size, record)
        self._size = _write(self._log, self._size, record)
        self._appended += 1

    def _append_surely(self, text: dict[str, Any]) -> None:
        """Write down what may be found out again at the next start."""
        try:
            self._append(text)
        except OSError as error:
            logger.warning("the journal cannot be written: %s", error.strerror)

    # ---- Life ----

    def _recover(self) -> None:
        self.state.unlink(NEXT_LOG)
        entered: dict[str, list[Entered]] = {}
        log = self.state.create(LOG)
        try:
            damage = self._read_log(log, entered)
            for number, states in entered.items():
                self._recover_data(log, number, states)
        finally:
            os.close(log)
        unknown = [name for name in self.state.names() if name.removesuffix(DATA) not in self.intents]
        if damage:
            aside = self.state.set_aside([LOG, *unknown])
            logger.warning(
                "the journal %s: it was set aside as %s; what can be read of it holds", damage, aside
            )
        else:
            for name in unknown:
                self.state.unlink(name)
        self._sequence += SEQUENCE_GAP
        self._files_durable([intent.number for intent in self.intents.values() if intent.extents])
        self._write_anew()
        os.fdatasync(self._log)
        self.state.rename(NEXT_LOG, LOG)
        self.state.synchronize()
        self._durable = self._appended

    def _read_log(self, log: int, entered: dict[str, list[Entered]]) -> str:
        """Take what a log says; return what is wrong with it, if anything."""
        if not os.fstat(log).st_size:
            return ""
        with mmap.mmap(log, 0, prot=mmap.PROT_READ) as mapped, memoryview(mapped) as view:
            scan = Scan(view)
            senseless = 0
            for number, record in enumerate(scan.records()):
                if not number and record.said.get("is") == "journal" and record.said.get("format") != FORMAT:
                    return "is of another version"
                try:
                    self._take(record, view, entered)
                except (ValueError, KeyError, TypeError, OverflowError):
                    senseless += 1
            return "is damaged" if scan.damaged or senseless else ""

    def _take(self, record: Record, view: memoryview, entered: dict[str, list[Entered]]) -> None:
        text = record.said
        match text["is"]:
            case "journal":
                self.name = str(text["name"])
                self._sequence = max(self._sequence, int(text["sequence"]))
            case "intent":
                found = understood(text, view[record.at : record.at + record.size], record.at)
                number = found.intent.number
                entered.setdefault(number, []).append(found)
                self.intents[number] = found.intent
                self._sequence = max(self._sequence, found.intent.sequence)
            case "done":
                self.intents.pop(str(text["number"]), None)
                entered.pop(str(text["number"]), None)
            case "upload":
                name = text.get("name")
                note = UploadNote(
                    str(text["number"]), str(text["key"]), float(text["begun"]), name and str(name)
                )
                self.uploads[note.number] = note
            case "ended":
                self.uploads.pop(str(text["number"]), None)
            case "rename":
                self._take_rename(renames.understood(text), view[record.at : record.at + record.size])
            case "copied":
                key, copied = renames.understood_copied(text)
                self.renames[str(text["number"])].copies[key] = copied
            case "renamed":
                self.renames.pop(str(text["number"]), None)
            case unknown:
                raise ValueError(f"there are no records of {unknown}")

    def _take_rename(self, rename: Rename, moved: memoryview) -> None:
        before = self.renames.get(rename.number)
        rename.copies = {} if before is None else before.copies
        self.renames[rename.number] = rename
        if rename.happened:
            renames.move(rename, self.intents, moved)

    def _recover_data(self, log: int, number: str, states: Sequence[Entered]) -> None:
        """Bring the bytes that lie in the log into the file of data, the latest last."""
        intent = states[-1].intent
        if not intent.extents:
            return
        try:
            descriptor = self.state.open(f"{number}{DATA}")
            was_there = True
        except FileNotFoundError:
            descriptor, was_there = self.state.create(f"{number}{DATA}"), False
        wanted, covered = Ranges(), Ranges()
        try:
            for begin, end in intent.extents:
                wanted.add(begin, end)
            for state in reversed(states):
                for begin, end, at in state.inline:
                    for here, there in list(wanted.within(begin, end)):
                        for low, high, done in list(covered.split(here, there)):
                            if not done:
                                _copy(log, at + low - begin, descriptor, low, high - low)
                for begin, end in (*((b, e) for b, e, _ in state.inline), *state.filed):
                    covered.add(begin, end)
                if not was_there:
                    for begin, end in state.filed:
                        wanted.remove(begin, end)
        finally:
            os.close(descriptor)
        if not was_there and any(wanted.count(*each) < each[1] - each[0] for each in intent.extents):
            # Its file goes when it is in the bucket, which the log may not have been told.
            intent.conflict = intent.conflict or LOST
            intent.extents = list(wanted.within(0, intent.size)) if intent.size else ()

    def close(self) -> None:
        """Give the journal up: what it says is found by the next daemon."""
        for log in (self._log, self._old_log):
            if log >= 0:
                os.close(log)
        self._log = self._old_log = -1
        self.state.close()


LOST: Final = "its data is gone from the state directory"


def _noted(note: UploadNote) -> dict[str, Any]:
    named = {} if note.upload is None else {"name": note.upload}
    return {"is": "upload", "number": note.number, "key": note.key, "begun": note.begun, **named}


def _write(log: int, size: int, record: bytes) -> int:
    """Write a record at a log's end, and return its new size; all of it or, with OSError, nothing."""
    view, at = memoryview(record), 0
    try:
        while at < len(view):
            at += os.write(log, view[at:])
    except OSError:
        os.ftruncate(log, size)
        raise
    return size + len(record)


def _read(descriptor: int, begin: int, end: int) -> bytes:
    data = os.pread(descriptor, end - begin, begin)
    return data + bytes(end - begin - len(data))


def _copy(source: int, at: int, target: int, offset: int, size: int) -> None:
    done = 0
    while done < size:
        data = os.pread(source, min(_COPY_PIECE, size - done), at + done)
        if not data:
            raise OSError(5, "the journal is shorter than it was")
        sent = 0
        while sent < len(data):
            sent += os.pwrite(target, data[sent:], offset + done + sent)
        done += len(data)
