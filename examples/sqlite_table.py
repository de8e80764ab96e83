"""A table of an SQLite database as a directory: a file for each row, named by one column, holding another.

    vhostfs serve examples.sqlite_table:Notes --socket-path /tmp/notes.sock --tag notes

Shown here: a file system that can be written to; answering at once (`def`) what takes microseconds; bounding
what a guest may ask for; and keeping open what the sandbox would not let us open again.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
from collections.abc import Iterator
from typing import Any

from vhostfs.filesystem import (
    ROOT,
    Attr,
    Caller,
    DirEntry,
    Entry,
    Filesystem,
    ReadBuffer,
    RenameFlags,
    SetAttr,
    WriteBuffer,
    WriteFlags,
)

LARGEST = 16 << 20
"""Most bytes of a file: a guest that writes at a huge offset shall not cost us that much memory."""

SCHEMA = "CREATE TABLE IF NOT EXISTS notes (name TEXT UNIQUE NOT NULL, content BLOB NOT NULL)"


def failure(number: int) -> OSError:
    """Return the exception of an errno."""
    return OSError(number, os.strerror(number))


def entry(node: int, size: int) -> Entry:
    """Return what the kernel is told of a row. Its node is its rowid + 1, as 1 is the root's."""
    return Entry(Attr(node, stat.S_IFREG | 0o666, size))


class Notes(Filesystem[None]):
    """The table `notes` of a database."""

    def __init__(self, database: str = "notes.db") -> None:
        """Open the database, for us alone: SQLite then opens its files once, now, and never again."""
        self._database = sqlite3.connect(database, autocommit=True)
        # Names of files are bytes: those that are no UTF-8 come and go as surrogates.
        self._database.text_factory = os.fsdecode
        for setting in ("locking_mode = EXCLUSIVE", "journal_mode = WAL", "temp_store = MEMORY"):
            self._database.execute(f"PRAGMA {setting}")
        self._database.execute(SCHEMA)

    def _get(self, query: str, *values: object) -> Any:
        return self._database.execute(query, values).fetchone()

    def _change(self, statement: str, *values: object) -> int:
        """Change rows; return how many."""
        try:
            return self._database.execute(statement, values).rowcount
        except sqlite3.IntegrityError:
            raise failure(errno.EEXIST) from None

    def lookup(self, caller: Caller, parent: int, name: str) -> Entry | None:
        """Find the row with a name."""
        query = "SELECT rowid + 1, length(content) FROM notes WHERE name = CAST(? AS TEXT)"
        row = self._get(query, os.fsencode(name))
        return None if row is None else entry(*row)

    def getattr(self, caller: Caller, node: int, handle: None) -> Attr:
        """Return attributes: of a row the size, all else is the same for all."""
        if node == ROOT:
            return Attr.directory(ROOT, 0o777)
        row = self._get("SELECT length(content) FROM notes WHERE rowid = ?", node - 1)
        if row is None:
            raise failure(errno.ESTALE)
        return entry(node, row[0]).attr

    def setattr(self, caller: Caller, node: int, handle: None, changes: SetAttr) -> Attr:
        """Cut a file, or let it grow. Owner and mode cannot change; times can, and are forgotten."""
        if changes.mode is not None or changes.uid is not None or changes.gid is not None:
            raise failure(errno.EPERM)
        if changes.size is not None:
            if changes.size > LARGEST:
                raise failure(errno.EFBIG)
            self._store(node, self._load(node)[: changes.size].ljust(changes.size, b"\0"))
        return self.getattr(caller, node, handle)

    def readdir(self, caller: Caller, node: int, handle: None, offset: int) -> Iterator[DirEntry]:
        """List the rows behind a rowid, which no change of other rows moves."""
        query = "SELECT rowid, name, length(content) FROM notes WHERE rowid > ? ORDER BY rowid"
        for rowid, name, size in self._database.execute(query, (offset,)):
            # Another program may have made rows with names that no file can have.
            if name not in {"", ".", ".."} and not {"/", "\0"} & set(name):
                yield DirEntry.of(name, entry(rowid + 1, size), rowid)

    def mknod(self, caller: Caller, parent: int, name: str, mode: int, rdev: int) -> Entry:
        """Insert an empty row. The kernel opens the file itself then, as there is no `create`."""
        if not stat.S_ISREG(mode):
            raise failure(errno.EPERM)
        self._change("INSERT INTO notes VALUES (CAST(? AS TEXT), x'')", os.fsencode(name))
        return self.lookup(caller, parent, name) or entry(0, 0)

    def unlink(self, caller: Caller, parent: int, name: str) -> None:
        """Delete the row."""
        if not self._change("DELETE FROM notes WHERE name = CAST(? AS TEXT)", os.fsencode(name)):
            raise failure(errno.ENOENT)

    def rename(
        self, caller: Caller, parent: int, name: str, new_parent: int, new_name: str, flags: RenameFlags
    ) -> None:
        """Give the row another name, in place of the row that has it."""
        if flags & ~RenameFlags.NOREPLACE:
            raise failure(errno.EINVAL)
        update = f"UPDATE OR {'ABORT' if flags else 'REPLACE'} notes SET name = CAST(? AS TEXT)"
        where = f"{update} WHERE name = CAST(? AS TEXT)"
        if not self._change(where, os.fsencode(new_name), os.fsencode(name)):
            raise failure(errno.ENOENT)

    def read(self, caller: Caller, node: int, handle: None, offset: int, buffer: ReadBuffer) -> bytes:
        """Return a piece, which SQLite cuts out."""
        query = "SELECT substr(content, ?, ?) FROM notes WHERE rowid = ?"
        row = self._get(query, min(offset, LARGEST) + 1, buffer.size, node - 1)
        return b"" if row is None else row[0]

    def write(
        self, caller: Caller, node: int, handle: None, offset: int, data: WriteBuffer, flags: WriteFlags
    ) -> int:
        """Put a piece into the content."""
        if offset + data.size > LARGEST:
            raise failure(errno.EFBIG)
        content = bytearray(self._load(node).ljust(offset, b"\0"))
        content[offset : offset + data.size] = bytes(data)
        self._store(node, content)
        return data.size

    def _load(self, node: int) -> bytes:
        row = self._get("SELECT content FROM notes WHERE rowid = ?", node - 1)
        return b"" if row is None else row[0]

    def _store(self, node: int, content: bytes | bytearray) -> None:
        self._change("UPDATE notes SET content = ? WHERE rowid = ?", content, node - 1)
