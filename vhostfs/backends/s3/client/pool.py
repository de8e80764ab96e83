"""Connections to one server, kept while they are of use.

The one used last is used next, so that the others may be given up when the load sinks. A name with several
addresses has its connections spread over them; an address that refuses is left alone for a while.
"""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
from dataclasses import dataclass
from typing import Final

from vhostfs.backends.s3.client.admission import Admission
from vhostfs.backends.s3.client.connection import Connection, connect
from vhostfs.backends.s3.store import UnavailableError

RESOLVE_SECONDS: Final = 30.0
"""How long addresses are remembered."""

SHUN_SECONDS: Final = 10.0
"""How long an address that refused is not tried, unless there is no other."""


@dataclass(frozen=True, slots=True)
class PoolOptions:
    """How connections are kept."""

    limit: int = 128
    """The most connections; who needs another waits for one."""
    idle_seconds: float = 15.0
    """How long an unused one is kept: S3 closes them after some 20 s."""
    connect_seconds: float = 5.0
    stall_seconds: float = 20.0
    """How long an exchange may say nothing."""


class Lending:
    """A connection that is lent while a block runs."""

    __slots__ = ("_connection", "_fresh", "_pool")

    def __init__(self, pool: Pool, fresh: bool) -> None:
        """A connection of a pool."""
        self._pool, self._fresh = pool, fresh

    async def __aenter__(self) -> Connection:
        self._connection = await self._pool.take(self._fresh)
        return self._connection

    async def __aexit__(self, *_: object) -> None:
        self._pool.give_back(self._connection)


class Pool:
    """The connections to one host and port. For one event loop."""

    def __init__(self, host: str, port: int, tls: ssl.SSLContext | None, options: PoolOptions) -> None:
        """A pool without connections."""
        self._host, self._port, self._tls, self._options = host, port, tls, options
        self._idle: list[Connection] = []
        self._busy: set[Connection] = set()
        self.admission = Admission(options.limit)
        self._addresses: list[str] = []
        self._resolved_at = float("-inf")
        self._shunned: dict[str, float] = {}
        self._closed = False

    def connection(self, *, fresh: bool = False) -> Lending:
        """Lend a connection for a block of `async with`; with `fresh` one that was not used before.

        Entering raises UnavailableError where the server cannot be reached.
        """
        return Lending(self, fresh)

    async def take(self, fresh: bool) -> Connection:
        """Return a connection, which is to be given back."""
        await self.admission.enter()
        try:
            connection = None if fresh else self._take_idle()
            if connection is None:
                connection = await self._connect()
        except BaseException:
            self.admission.leave()
            raise
        self._busy.add(connection)
        return connection

    def give_back(self, connection: Connection) -> None:
        """Take a connection back, which is kept if it is still of use."""
        self._busy.discard(connection)
        self._put_back(connection)
        self.admission.leave()

    def close(self) -> None:
        """End all connections, those in use too."""
        self._closed = True
        connections = [*self._idle, *self._busy]
        self._idle.clear()
        for connection in connections:
            connection.abort()

    def _take_idle(self) -> Connection | None:
        oldest = asyncio.get_running_loop().time() - self._options.idle_seconds
        while self._idle and (not self._idle[0].usable or self._idle[0].idle_since < oldest):
            self._idle.pop(0).abort()
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
        return None

    def _put_back(self, connection: Connection) -> None:
        if connection.usable and not self._closed:
            connection.idle_since = asyncio.get_running_loop().time()
            self._idle.append(connection)
        else:
            connection.abort()

    async def _connect(self) -> Connection:
        reason = "it has no address"
        for address in await self._candidates():
            try:
                return await connect(
                    self._host,
                    self._port,
                    address=address,
                    tls=self._tls,
                    seconds=self._options.connect_seconds,
                    stall_seconds=self._options.stall_seconds,
                )
            except ssl.SSLCertVerificationError as error:
                raise UnavailableError(
                    f"{self._host}: its certificate is not trusted: {error.verify_message}"
                ) from None
            except TimeoutError:
                reason = f"no connection within {self._options.connect_seconds:g} s"
            except OSError as error:
                reason = error.strerror or str(error)
            self._shunned[address] = asyncio.get_running_loop().time() + SHUN_SECONDS
        raise UnavailableError(f"{self._host}:{self._port} cannot be reached: {reason}")

    async def _candidates(self) -> list[str]:
        """Return the addresses in the order in which they are to be tried."""
        loop = asyncio.get_running_loop()
        if loop.time() - self._resolved_at > RESOLVE_SECONDS or not self._addresses:
            try:
                found = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
            except OSError as error:
                raise UnavailableError(f"{self._host}: {error.strerror or error}") from None
            self._addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
            self._resolved_at = loop.time()
        now = loop.time()
        self._shunned = {address: until for address, until in self._shunned.items() if until > now}
        addresses = random.sample(self._addresses, len(self._addresses))
        return sorted(addresses, key=self._shunned.__contains__)
