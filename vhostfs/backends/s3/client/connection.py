"""HTTP/1.1 over one socket: a request goes out, and the body of its response is received where it will stay.

asyncio asks a BufferedProtocol into what memory it shall receive. While a body of known length comes in,
that is the memory which the response is for, so that nothing copies it but the kernel (over TLS: the TLS
library). httptools parses the head, and chunked bodies; nothing else of HTTP is needed here.

What a server sends is not trusted: heads and collected bodies are bounded, lengths are checked against the
room there is, a response that nobody asked for ends the connection, and so does silence.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Buffer, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import httptools

from vhostfs.backends.s3.store import BrokenAnswerError, UnavailableError

HEAD_MAXIMUM: Final = 64 << 10
"""The most bytes of a response's head, and how much is received at once where the length is not known."""

COLLECTED_MAXIMUM: Final = 16 << 20
"""The most bytes of a body that is received into memory of its own."""

ANSWER_SECONDS: Final = 300.0
"""How long an answer may take from its first byte to its last: one that drips would never be silent."""

CONTINUE_MINIMUM: Final = 1 << 20
"""The smallest body that waits for the server to agree before it is sent (Expect: 100-continue)."""

CONTINUE_SECONDS: Final = 1.0
"""How long it waits; servers that do not know of it say nothing."""

WRITE_PIECE: Final = 256 << 10
"""How much of a body is given to the socket at once."""

type Place = Callable[[int, Mapping[str, str]], Sequence[memoryview] | None]
"""Decides from status and headers where a body goes: into this writable memory, or (None) collected.

Called once, when the head has come. What it raises is what the exchange raises.
"""


@dataclass(frozen=True, slots=True)
class Request:
    """A request, whose target and headers are encoded and signed."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: Sequence[Buffer] = ()


@dataclass(slots=True)
class Response:
    """A response; `body` holds what was collected, `received` counts what went where Place said."""

    status: int
    headers: dict[str, str]
    body: bytearray = field(default_factory=bytearray)
    received: int = 0


class LostError(UnavailableError):
    """The connection ended, or went silent, before the response was complete.

    `stale` says that the server closed a connection that had been used before, without a word: most likely
    it had waited long enough, and never saw the request.
    """

    def __init__(self, message: str, *, stale: bool = False) -> None:
        super().__init__(message)
        self.stale = stale


def collect(_status: int, _headers: Mapping[str, str]) -> None:
    """Collect any body: the Place of requests that expect a document or nothing."""


class _Head:
    """What httptools tells of a response, while it parses it."""

    __slots__ = ("body", "complete", "headers")

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}
        self.body: list[bytes] = []
        self.complete = False

    def on_header(self, name: bytes, value: bytes) -> None:
        key, text = name.decode("latin-1").lower(), value.decode("utf-8", "replace")
        self.headers[key] = f"{self.headers[key]}, {text}" if key in self.headers else text

    def on_body(self, data: bytes) -> None:
        self.body.append(data)

    def on_message_complete(self) -> None:
        self.complete = True


class Connection(asyncio.BufferedProtocol):
    """One connection: one exchange at a time, until `usable` is false.

    For one event loop. An exchange that is cancelled ends the connection.
    """

    def __init__(self, stall_seconds: float) -> None:
        """A connection that is given to create_connection; silence of this many seconds ends an exchange."""
        self._loop = asyncio.get_running_loop()
        self._stall_seconds = stall_seconds
        self._transport: asyncio.Transport | None = None
        self._received = bytearray(HEAD_MAXIMUM)
        self._view = memoryview(self._received)
        self._timer: asyncio.TimerHandle | None = None
        self._drained = asyncio.Event()
        self._drained.set()
        self._lost: Exception | None = None
        self.usable = False
        self._used = False
        self._reused = False
        self.idle_since = 0.0
        self._rest()

    def _rest(self) -> None:
        """Expect nothing."""
        self._waiter: asyncio.Future[Response] | None = None
        self._place: Place = collect
        self._bodyless = False
        self._filled = 0
        self._head: _Head | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._response: Response | None = None
        self._chunked = False
        self._until_close = False
        self._collecting = True
        self._missing = 0
        self._segments: list[memoryview] = []
        self._agreed: asyncio.Event | None = None
        self._moved_at = 0.0
        self._heard_at = 0.0

    # ---- what asyncio calls ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.usable = True

    def connection_lost(self, error: Exception | None) -> None:
        """Fail what was under way; a body without a length ends here."""
        self.usable = False
        self._forget_timer()
        self._drained.set()
        if self._until_close and error is None:
            self._finish()
        elif self._waiter is not None:
            reason = f": {error}" if error is not None else ""
            stale = self._reused and not self._has_answered()
            self.fail(LostError(f"the server closed the connection{reason}", stale=stale))

    def pause_writing(self) -> None:
        """Stop giving the socket more than it takes."""
        self._drained.clear()

    def resume_writing(self) -> None:
        """Go on."""
        self._drained.set()

    def eof_received(self) -> bool:
        """Let the transport close."""
        return False

    def get_buffer(self, sizehint: int) -> memoryview:
        """Receive a body into its place, and all else into memory of our own."""
        waiting = self._waiter is not None and not self._waiter.done()
        if waiting and self._segments and self._missing:
            segment = self._segments[0]
            return segment[: self._missing] if len(segment) > self._missing else segment
        return self._view[self._filled :] if self._filled < HEAD_MAXIMUM else self._view[:1]

    def buffer_updated(self, count: int) -> None:
        """Take note of what was received."""
        self._moved_at = self._loop.time()
        if self._waiter is None or self._waiter.done():
            self.abort()  # nobody asked for that
            return
        try:
            if self._segments and self._missing:
                self._advance(count)
                if not self._missing:
                    self._finish()
            else:
                self._filled += count
                self._take(self._filled - count)
        except Exception as error:  # whatever a Place raises belongs to who made the exchange
            self.fail(error)

    # ---- one exchange ----

    async def exchange(self, request: Request, place: Place = collect) -> Response:
        """Send a request and return its response.

        Raise LostError where the connection ends or says nothing for too long, BrokenAnswerError for what
        is not HTTP or has no room, and whatever `place` raises. After any of them the connection is not
        usable.
        """
        transport = self._transport
        if transport is None or not self.usable or self._waiter is not None:
            raise LostError("the connection is not usable", stale=True)
        size = sum(memoryview(piece).nbytes for piece in request.body)
        headers = [f"{name}: {value}\r\n" for name, value in request.headers.items()]
        if size or request.method in {"PUT", "POST"}:
            headers.append(f"content-length: {size}\r\n")
        self._waiter = self._loop.create_future()
        self._place, self._bodyless = place, request.method == "HEAD"
        self._moved_at = self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_later(self._stall_seconds, self._watch)
        if size >= CONTINUE_MINIMUM:
            headers.append("expect: 100-continue\r\n")
            self._agreed = asyncio.Event()
        head = f"{request.method} {request.target} HTTP/1.1\r\n{''.join(headers)}\r\n".encode()
        self._reused, self._used = self._used, True
        try:
            if size < WRITE_PIECE:
                transport.write(b"".join((head, *request.body)))
            else:
                transport.write(head)
                await self._send(transport, request.body)
            return await self._waiter
        except BaseException:
            self.abort()
            raise
        finally:
            self._rest()

    async def _send(self, transport: asyncio.Transport, body: Sequence[Buffer]) -> None:
        """Send a body as the socket takes it, until the server has answered."""
        waiter = self._waiter
        assert waiter is not None
        if self._agreed is not None:
            try:
                async with asyncio.timeout(CONTINUE_SECONDS):
                    await self._agreed.wait()
            except TimeoutError:
                pass
        for piece in body:
            view = memoryview(piece).cast("B")
            for at in range(0, len(view), WRITE_PIECE):
                if waiter.done() or not self.usable:
                    self.usable = False  # what is left of the body would be taken for the next request
                    return
                transport.write(view[at : at + WRITE_PIECE])
                self._moved_at = self._loop.time()
                await self._drained.wait()

    def abort(self) -> None:
        """End the connection at once."""
        self.usable = False
        self._forget_timer()
        if self._transport is not None:
            self._transport.abort()

    def _forget_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # ---- receiving ----

    def _has_answered(self) -> bool:
        return self._filled > 0 or self._response is not None

    def _take(self, known: int) -> None:
        """Look at what was received from `known` on: a head, or a body of unknown length."""
        if self._response is None:
            self._take_heads(known)
        elif self._chunked:
            self._feed_chunks(0)
        else:
            self._collect(self._view[: self._filled])
            self._filled = 0

    def _take_heads(self, known: int) -> None:
        start = 0
        if not self._heard_at:
            self._heard_at = self._moved_at
        while True:
            end = self._received.find(b"\r\n\r\n", max(start, known - 3), self._filled)
            if end < 0:
                if self._filled == HEAD_MAXIMUM:
                    raise BrokenAnswerError("the server's answer has a head without end")
                if start:
                    self._keep_from(start)
                return
            status, head, parser = _parsed(self._view[start : end + 4])
            start = known = end + 4
            if status >= 200:
                break
            if self._agreed is not None:
                self._agreed.set()
        if self._agreed is not None:
            self._agreed.set()
        self._begin_body(status, head, parser, start)

    def _keep_from(self, start: int) -> None:
        left = bytes(self._view[start : self._filled])
        self._view[: len(left)] = left
        self._filled = len(left)

    def _begin_body(self, status: int, head: _Head, parser: httptools.HttpResponseParser, start: int) -> None:
        headers = head.headers
        self._response = Response(status, headers)
        if not _stays(parser.get_http_version(), headers):
            self.usable = False
        if self._bodyless or status in {204, 304}:
            self._expect_end(start)
            return
        segments = self._place(status, headers)
        self._chunked = "chunked" in headers.get("transfer-encoding", "").lower()
        length = headers.get("content-length")
        if self._chunked:
            self._head, self._parser = head, parser
            self._segments = list(segments or ())
            self._collecting = segments is None
            self._feed_chunks(start)
            return
        if length is None:
            self.usable = False
            self._until_close = True
            self._segments = []
            self._collecting = True
            if segments is not None:
                raise BrokenAnswerError("the server's answer has no length")
            self._collect(self._view[start : self._filled])
            self._filled = 0
            return
        if not length.isdecimal():
            raise BrokenAnswerError("the server's answer has no length that is a number")
        self._missing = int(length)
        self._collecting = segments is None
        if segments is None:
            if self._missing > COLLECTED_MAXIMUM:
                raise BrokenAnswerError(f"the server's answer has {length} bytes where a document should be")
            self._response.body = bytearray(self._missing)
            segments = [memoryview(self._response.body)]
        elif self._missing > sum(map(len, segments)):
            raise BrokenAnswerError(f"the server's answer has {length} bytes, more than were asked for")
        self._segments = [segment for segment in segments if len(segment)]
        self._take_rest(start)

    def _take_rest(self, start: int) -> None:
        """Move what came together with the head to its place."""
        rest = self._view[start : self._filled]
        if len(rest) > self._missing:
            raise BrokenAnswerError("the server's answer is longer than it says")
        self._filled = 0
        while len(rest):
            count = min(len(rest), len(self._segments[0]))
            self._segments[0][:count] = rest[:count]
            rest = rest[count:]
            self._advance(count)
        if not self._missing:
            self._finish()

    def _advance(self, count: int) -> None:
        """Take note that the next `count` bytes are in their place."""
        self._missing -= count
        if not self._collecting and self._response is not None:
            self._response.received += count
        if count == len(self._segments[0]):
            self._segments.pop(0)
        else:
            self._segments[0] = self._segments[0][count:]

    def _feed_chunks(self, start: int) -> None:
        assert self._parser is not None
        assert self._head is not None
        data = self._view[start : self._filled]
        self._filled = 0
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            raise BrokenAnswerError(f"the server's answer is no HTTP: {error}") from None
        pieces, self._head.body = self._head.body, []
        for piece in pieces:
            if self._collecting:
                self._collect(memoryview(piece))
            else:
                self._store(memoryview(piece))
        if self._head.complete:
            self._finish()

    def _collect(self, data: memoryview) -> None:
        assert self._response is not None
        if len(self._response.body) + len(data) > COLLECTED_MAXIMUM:
            raise BrokenAnswerError("the server's answer has no end")
        self._response.body += data

    def _store(self, data: memoryview) -> None:
        assert self._response is not None
        while len(data):
            if not self._segments:
                raise BrokenAnswerError("the server's answer is longer than what was asked for")
            count = min(len(data), len(self._segments[0]))
            self._segments[0][:count] = data[:count]
            self._response.received += count
            data = data[count:]
            rest = self._segments[0][count:]
            self._segments[:1] = [rest] if len(rest) else []

    def _expect_end(self, start: int) -> None:
        """Finish a response without a body; what follows it was not asked for."""
        if self._filled > start:
            self.usable = False
        self._finish()

    def _finish(self) -> None:
        waiter, response = self._waiter, self._response
        if waiter is not None and response is not None and not waiter.done():
            waiter.set_result(response)

    def fail(self, error: Exception) -> None:
        """End the exchange under way with an error, and the connection with it."""
        self.abort()
        if self._agreed is not None:
            self._agreed.set()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(error)

    def _watch(self) -> None:
        """End the exchange when nothing has moved for too long; one timer serves one after another."""
        self._timer = None
        if self._waiter is None:
            return
        now = self._loop.time()
        left = self._moved_at + self._stall_seconds - now
        if left <= 0:
            self.fail(LostError(f"the server said nothing for {self._stall_seconds:g} s"))
        elif self._heard_at and now - self._heard_at > ANSWER_SECONDS:
            self.fail(LostError(f"the server's answer is not at its end after {ANSWER_SECONDS:g} s"))
        else:
            self._timer = self._loop.call_later(left, self._watch)


def _stays(version: str, headers: Mapping[str, str]) -> bool:
    """Tell whether the connection lives on behind a response."""
    wishes = headers.get("connection", "").lower()
    return "close" not in wishes and (version == "1.1" or "keep-alive" in wishes)


def _parsed(data: memoryview) -> tuple[int, _Head, httptools.HttpResponseParser]:
    head = _Head()
    parser = httptools.HttpResponseParser(head)
    try:
        parser.feed_data(data)
        return parser.get_status_code(), head, parser
    except httptools.HttpParserError as error:
        raise BrokenAnswerError(f"the server's answer is no HTTP: {error}") from None


async def connect(
    host: str, port: int, *, address: str, tls: ssl.SSLContext | None, seconds: float, stall_seconds: float
) -> Connection:
    """Return a connection to an address of a host; raise OSError or TimeoutError."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(seconds):
        _, connection = await loop.create_connection(
            lambda: Connection(stall_seconds),
            address,
            port,
            ssl=tls,
            server_hostname=host if tls is not None else None,
        )
    return connection
