"""The server: buckets on a socket, what was asked of them, and what is to go wrong."""

from __future__ import annotations

import asyncio
import email.utils
import ssl
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, MutableSequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from typing import Any, Final
from urllib.parse import parse_qsl, unquote

import httptools

from tests.fake_s3 import signatures
from tests.fake_s3.bucket import Bucket, RefusedError
from tests.fake_s3.faults import Fault, Kind
from tests.fake_s3.requests import Answer, Asked, answer, operation, refused

ACCESS_KEY: Final = "AKIAFAKE"
SECRET: Final = "a secret that only the tests know"  # noqa: S105
BUCKET: Final = "bucket"


class FakeS3:
    """A server with one bucket. For one event loop."""

    def __init__(self, *, region: str = "us-east-1", tls: ssl.SSLContext | None = None) -> None:
        """A server that listens once it is entered (see `fake_s3`)."""
        self.bucket = Bucket()
        self.requests: Counter[str] = Counter()
        """By operation, whatever became of them."""
        self.asked: MutableSequence[Asked] = []
        self.faults: list[Fault] = []
        self.rewrite: Callable[[str, Answer], None] | None = None
        """Changes answers, given the operation's name, before they are sent."""
        self.unheeded: set[tuple[str, str]] = set()
        """Headers that it does not know, by the operation's name."""
        self.connections = 0
        self.busy = 0
        self.busiest = 0
        """The most requests that were under way at once."""
        self.sent = 0
        """Bytes of bodies."""
        self.region = region
        self.skew = 0.0
        self.latency = 0.0
        self.bandwidth: float | None = None
        """Bytes a second and connection."""
        self.piece = 64 << 10
        """How much of a body is sent at once."""
        self.keep_alive = True
        self.anonymous = False
        self.heeds_conditions = True
        """Of reads: If-Match."""
        self.port = 0
        self.tls = tls
        self.began_body = asyncio.Event()
        """A part of a body was sent, and more is to come."""
        self.watch: Callable[[str, bool], None] | None = None
        """Told of each request by its operation: when it has come, and when it was carried out."""
        self.held: dict[str, asyncio.Event] = {}
        """What requests wait for before they are carried out, by operation."""
        self.came = asyncio.Event()
        """Set and cleared again when a request has come."""
        self.open: set[_Connection] = set()

    async def changed(self) -> None:
        """Return when the next request has come."""
        await self.came.wait()

    @property
    def url(self) -> str:
        """Return where it listens."""
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    def fail(self, kind: Kind, operation: str | None = None, **how: Any) -> None:
        """Let the next request of an operation (of any) go wrong."""
        self.faults.append(Fault(kind, operation, **how))

    def fail_with(self, status: int, code: str, operation: str | None = None) -> None:
        """Let the next request of an operation be refused."""
        self.fail(Kind.STATUS, operation, status=status, code=code)

    def take_fault(self, name: str) -> Fault | None:
        """Return the fault that meets an operation."""
        for fault in self.faults:
            if fault.operation in {None, name} and fault.times > 0:
                fault.times -= 1
                return fault
        return None

    def drop_connections(self) -> None:
        """End all connections, as a server does that has waited long enough."""
        for connection in list(self.open):
            connection.end()

    def perform(self, asked: Asked, *, heeds_ranges: bool = True) -> Answer:
        """Check who asks, and do what is asked."""
        try:
            if not self.anonymous:
                signatures.check(asked, ACCESS_KEY, SECRET, self.region, self.skew)
            if not self.heeds_conditions and asked.method == "GET":
                others = {name: value for name, value in asked.headers.items() if name != "if-match"}
                asked = replace(asked, headers=others)
            if asked.raw_path.split("/")[1] != BUCKET:
                raise RefusedError(404, "NoSuchBucket")
            name = operation(asked)
            heeded = {
                header: value
                for header, value in asked.headers.items()
                if heeds_ranges and (name, header) not in self.unheeded
            }
            return answer(self.bucket, replace(asked, headers=heeded))
        except RefusedError as error:
            return refused(error, asked.method)


class _Connection(asyncio.Protocol):
    """One connection: requests one after another."""

    def __init__(self, server: FakeS3) -> None:
        self._server = server
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._begin()

    def _begin(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._url = b""
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._server.connections += 1
        self._server.open.add(self)

    def connection_lost(self, _error: Exception | None) -> None:
        self._server.open.discard(self)
        self._writable.set()
        if self._task is not None:
            self._task.cancel()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.end()

    def end(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # ---- what httptools calls ----

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode().lower()] = value.decode()

    def on_headers_complete(self) -> None:
        if self._headers.get("expect") == "100-continue" and self._transport is not None:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        raw_path, _, raw_query = self._url.decode().partition("?")
        method = self._parser.get_method().decode()
        asked = Asked(method, raw_path, raw_query, self._headers, b"".join(self._body))
        key = unquote(raw_path).removeprefix(f"/{BUCKET}").removeprefix("/")
        asked = replace(asked, key=key, query=dict(parse_qsl(raw_query, keep_blank_values=True)))
        self._task = asyncio.get_running_loop().create_task(self._serve(asked))
        self._begin()

    # ---- answering ----

    async def _serve(self, asked: Asked) -> None:
        server = self._server
        name = operation(asked)
        server.requests[name] += 1
        server.asked.append(asked)
        server.came.set()
        server.came.clear()
        server.busy += 1
        server.busiest = max(server.busiest, server.busy)
        try:
            if server.watch is not None:
                server.watch(name, False)
            if server.latency:
                await asyncio.sleep(server.latency)
            if name in server.held:
                await server.held[name].wait()
            await self._answer(asked, server.take_fault(name))
        finally:
            server.busy -= 1

    async def _answer(self, asked: Asked, fault: Fault | None) -> None:
        kind = fault.kind if fault is not None else None
        if fault is not None and kind is Kind.STATUS:
            found = refused(RefusedError(fault.status, fault.code, **fault.headers), asked.method)
        elif kind is Kind.DROP:
            self.end()
            return
        else:
            found = self._server.perform(asked, heeds_ranges=kind is not Kind.WHOLE)
            if self._server.watch is not None:
                self._server.watch(operation(asked), True)
        if fault is not None and kind is Kind.LATE_STATUS:
            found = refused(RefusedError(fault.status, fault.code), asked.method)
        elif kind is Kind.LATE_DROP:
            self.end()
            return
        elif kind is Kind.SILENT:
            return
        elif fault is not None and kind is Kind.SLOW:
            await asyncio.sleep(fault.seconds)
        if self._server.rewrite is not None:
            self._server.rewrite(operation(asked), found)
        await self._send(found, kind, asked.method)

    async def _send(self, found: Answer, kind: Kind | None, method: str) -> None:
        body = found.body
        length = found.length if found.length is not None else len(body)
        if kind is Kind.WRONG_BYTES:
            body = bytes(byte ^ 0xFF for byte in body)
        elif kind is Kind.NOT_XML:
            body = body[: len(body) // 2] + b" " * (len(body) - len(body) // 2)
        elif kind is Kind.LONGER:
            body += b"more than was asked for"
        headers = {
            "server": "fake",
            "date": email.utils.formatdate(time.time() + self._server.skew, usegmt=True),
        }
        headers |= found.headers
        if not self._server.keep_alive:
            headers["connection"] = "close"
        if kind in {Kind.CHUNKED, Kind.ENDLESS_BODY, Kind.DRIP}:
            headers["transfer-encoding"] = "chunked"
        elif kind is not Kind.NO_LENGTH:
            headers["content-length"] = str(length)
        head = f"HTTP/1.1 {found.status} Told\r\n" + "".join(f"{k}: {v}\r\n" for k, v in headers.items())
        await self._write(head.encode())
        if kind is Kind.ENDLESS_HEAD:
            await self._write_for_ever(b"x-more: and more\r\n" * 1000)
        await self._write(b"\r\n")
        while kind is Kind.DRIP:
            await self._write(b"1\r\n \r\n")
            await asyncio.sleep(0.005)
        if kind is Kind.ENDLESS_BODY:
            await self._write_for_ever(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
        if kind is Kind.CHUNKED:
            for at in range(0, len(body), 1000):
                piece = body[at : at + 1000]
                await self._write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            await self._write(b"0\r\n\r\n")
        elif method != "HEAD":
            await self._write_body(body[: len(body) // 2] if kind is Kind.CUT else body)
        if kind in {Kind.CUT, Kind.NO_LENGTH} or not self._server.keep_alive:
            assert self._transport is not None
            self._transport.close()

    async def _write_body(self, body: bytes) -> None:
        view = memoryview(body)
        bandwidth, size = self._server.bandwidth, self._server.piece
        loop = asyncio.get_running_loop()
        began = loop.time()
        for at in range(0, len(view), size):
            piece = view[at : at + size]
            self._server.sent += len(piece)
            await self._write(piece)
            if bandwidth is not None:
                self._server.began_body.set()
                late = began + min(at + size, len(view)) / bandwidth - loop.time()
                if late > 0:
                    await asyncio.sleep(late)

    async def _write_for_ever(self, piece: bytes) -> None:
        while True:
            await self._write(piece)

    async def _write(self, data: bytes | memoryview) -> None:
        assert self._transport is not None
        if self._transport.is_closing():
            raise asyncio.CancelledError
        self._transport.write(data)
        if not self._writable.is_set():
            await self._writable.wait()


@asynccontextmanager
async def fake_s3(server: FakeS3 | None = None) -> AsyncIterator[FakeS3]:
    """Let a server listen on a port of the loopback interface: the one that it had before, if any."""
    server = server or FakeS3()
    listening = await asyncio.get_running_loop().create_server(
        lambda: _Connection(server), "127.0.0.1", server.port, ssl=server.tls
    )
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()
        server.drop_connections()
        await listening.wait_closed()


@contextmanager
def listening(server: FakeS3) -> Iterator[None]:
    """Let a server listen on a thread of its own."""
    begun, loop, ended = threading.Event(), asyncio.new_event_loop(), asyncio.Event()

    async def serve() -> None:
        async with fake_s3(server):
            begun.set()
            await ended.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    begun.wait()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join()
        loop.close()
