"""A file as a stream of text, as io.TextIOWrapper has it: encodings, newlines, positions to come back to."""

from __future__ import annotations

import codecs
import io
import os
from typing import Any, Final

from vhostfs.files.buffered import ByteStream

_NEWLINES: Final = (None, "", "\n", "\r", "\r\n")
_STRIDE: Final = 1024
"""How many bytes `tell` decodes at once until it is near."""

_STATE_SHIFT: Final = 64
_SKIP_SHIFT: Final = 128
_STATE_MASK: Final = (1 << 64) - 1


class TextStream:
    """Text over a stream of bytes. One call at a time.

    A position of `tell` is good for `seek` alone: the offset in bytes, and above that what the decoder
    remembers, and characters to skip.
    """

    __slots__ = (
        "_bytes",
        "_codec",
        "_decoder",
        "_encoder",
        "_errors",
        "_newline",
        "_part",
        "_part_at",
        "_part_state",
        "_text",
        "_used",
    )

    def __init__(self, stream: ByteStream, encoding: str, errors: str, newline: str | None) -> None:
        """Say how text is written; what `check` accepts."""
        self._bytes: Final = stream
        self._codec: Final = codecs.lookup(encoding)
        self._errors: Final = errors
        self._newline: Final = newline
        self._decoder: Any = self._new_decoder()
        self._encoder: codecs.IncrementalEncoder | None = None
        # What was decoded last, how much of it was read, and from what, where, in which state.
        self._text = ""
        self._used = 0
        self._part = b""
        self._part_at = 0
        self._part_state: tuple[bytes, int] = (b"", 0)

    @staticmethod
    def check(encoding: str, errors: str, newline: str | None) -> None:
        """Raise LookupError for an unknown encoding or way with errors, ValueError for a newline."""
        codec = codecs.lookup(encoding)
        if codec.incrementaldecoder is None or codec.incrementalencoder is None:
            raise LookupError(f"{encoding!r} cannot be read and written part by part")
        codecs.lookup_error(errors)
        if newline not in _NEWLINES:
            raise ValueError(f"illegal newline value: {newline!r}")

    def _new_decoder(self) -> Any:
        assert self._codec.incrementaldecoder is not None
        decoder: Any = self._codec.incrementaldecoder(self._errors)
        if self._newline in {None, ""}:
            decoder = io.IncrementalNewlineDecoder(decoder, translate=self._newline is None)
        return decoder

    # ---- Reading ----

    async def _more(self) -> bool:
        """Decode another part behind what is left; tell whether there was one."""
        at = self._bytes.position
        state = self._decoder.getstate()
        part = await self._bytes.read_some()
        text = self._decoder.decode(part, final=not part)
        left = self._text[self._used :]
        if left:
            # Two parts are one from here on, so that `tell` finds its way through both.
            self._part += part
            self._text += text
        else:
            self._part, self._part_at, self._part_state = part, at, state
            self._text, self._used = text, 0
        return bool(part) or bool(text)

    def _take(self, size: int) -> str:
        text = self._text[self._used : self._used + size]
        self._used += len(text)
        return text

    async def read(self, size: int) -> str:
        """Return that many characters, or fewer at the end; all that is left where the size is negative."""
        if size < 0:
            left = self._take(len(self._text))
            data = await self._bytes.read(-1)
            text: str = self._decoder.decode(data, final=True)
            self._drop()
            return left + text
        parts = [self._take(size)]
        left_over = size - len(parts[0])
        while left_over and await self._more():
            parts.append(self._take(left_over))
            left_over -= len(parts[-1])
        return "".join(parts)

    async def readline(self, limit: int) -> str:
        """Return what there is up to and with the next end of a line, or the end, or `limit` characters."""
        parts: list[str] = []
        while limit:
            end = self._line_end(self._used)
            size = (end if end >= 0 else len(self._text)) - self._used
            if end < 0 and self._newline == "\r\n" and self._text.endswith("\r") and size:
                size -= 1
            if 0 <= limit <= size:
                size, end = limit, self._used
            parts.append(self._take(size))
            limit -= size if limit > 0 else 0
            if end >= 0:
                break
            if not await self._more():
                parts.append(self._take(max(limit, len(self._text)) if limit < 0 else limit))
                break
        return "".join(parts)

    def _line_end(self, begin: int) -> int:
        """Return where the line that `begin` is in ends, or -1."""
        text = self._text
        if self._newline in {None, "\n"}:
            return text.find("\n", begin) + 1 or -1
        if self._newline:
            found = text.find(self._newline, begin)
            return -1 if found < 0 else found + len(self._newline)
        line_feed, carriage_return = text.find("\n", begin), text.find("\r", begin)
        if carriage_return < 0 or 0 <= line_feed < carriage_return:
            return line_feed + 1 or -1
        return carriage_return + (2 if line_feed == carriage_return + 1 else 1)

    # ---- Writing ----

    async def write(self, text: str) -> int:
        """Write text, its newlines as they are to be; return how many characters."""
        if self._text or self._part:
            await self.seek(await self.tell(), os.SEEK_SET)
        newline = os.linesep if self._newline is None else self._newline
        written = text.replace("\n", newline) if newline not in {"", "\n"} else text
        if self._encoder is None:
            assert self._codec.incrementalencoder is not None
            self._encoder = self._codec.incrementalencoder(self._errors)
            if self._bytes.position:
                # There is something already, so no byte order mark.
                self._encoder.setstate(0)
        await self._bytes.write(self._encoder.encode(written))
        return len(text)

    # ---- Positions ----

    def _drop(self) -> None:
        self._text, self._used, self._part = "", 0, b""

    async def tell(self) -> int:
        """Return where the next character is, for `seek`."""
        if not self._text and not self._part:
            return self._cookie(self._bytes.position, self._decoder.getstate(), 0)
        decoder = self._new_decoder()
        decoder.setstate(self._part_state)
        made = 0
        offset = self._part_at - len(self._part_state[0])
        known = offset, (b"", self._part_state[1]), 0
        count, step = 0, _STRIDE
        while made < self._used and count < len(self._part):
            state = decoder.getstate()
            length = len(decoder.decode(self._part[count : count + step]))
            if step > 1 and made + length >= self._used:
                decoder.setstate(state)
                step = 1
                continue
            made += length
            count += step
            state = decoder.getstate()
            if not state[0] and made <= self._used:
                known = self._part_at + count, state, made
        return self._cookie(known[0], known[1], self._used - known[2])

    @staticmethod
    def _cookie(offset: int, state: tuple[bytes, int], skip: int) -> int:
        return (offset - len(state[0])) | state[1] << _STATE_SHIFT | skip << _SKIP_SHIFT

    async def seek(self, cookie: int, whence: int) -> int:
        """Go to a position of `tell`, to the beginning or to the end; ValueError for anything else."""
        if whence == os.SEEK_CUR:
            if cookie:
                raise io.UnsupportedOperation("can't do nonzero cur-relative seeks")
            return await self.tell()
        if whence == os.SEEK_END:
            if cookie:
                raise io.UnsupportedOperation("can't do nonzero end-relative seeks")
            offset = await self._bytes.seek(0, os.SEEK_END)
            state = skip = 0
        elif whence == os.SEEK_SET:
            if cookie < 0:
                raise ValueError(f"negative seek position {cookie}")
            offset = cookie & _STATE_MASK
            state, skip = cookie >> _STATE_SHIFT & _STATE_MASK, cookie >> _SKIP_SHIFT
            await self._bytes.seek(offset, os.SEEK_SET)
        else:
            raise ValueError(f"unsupported whence ({whence})")
        self._drop()
        self._decoder.reset()
        if whence == os.SEEK_SET and cookie:
            self._decoder.setstate((b"", state))
        self._encoder = None
        if skip:
            await self.read(skip)
        return cookie if whence == os.SEEK_SET else offset

    async def truncate(self, size: int | None) -> int:
        """Make the file `size` bytes long, or as long as the position says."""
        if size is None:
            await self.seek(await self.tell(), os.SEEK_SET)
        return await self._bytes.truncate(size)

    async def flush(self) -> None:
        """Write what was collected."""
        await self._bytes.flush()
