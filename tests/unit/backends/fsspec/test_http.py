"""An HTTP server of this machine is read by fsspec's own coroutines, and written where it takes that."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from vhostfs.backends.fsspec import open_url
from vhostfs.testing import mount

pytestmark = pytest.mark.anyio

DATA = os.urandom(300_000)


class Server:
    """A server of a directory, which notes what it was asked."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.url = ""
        self.asked: list[tuple[str, str, str | None]] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer as servers do, or as some of them do."""
        self.asked.append((request.method, request.raw_path, request.headers.get("Range")))
        path = request.path.removeprefix("/")
        if path == "no-ranges":
            return web.Response(body=DATA)
        if path == "chunked":
            response = web.StreamResponse()
            response.enable_chunked_encoding()
            await response.prepare(request)
            if request.method == "GET":
                await response.write(DATA[:1000])
                await response.write(DATA[1000:2000])
            return response
        if path in {"broken", "forbidden"} and request.method == "GET":
            raise web.HTTPForbidden if path == "forbidden" else web.HTTPInternalServerError
        if path in {"broken", "forbidden"}:
            return web.Response(headers={"Content-Length": "10"})
        place = self.directory / path
        if request.method == "PUT":
            place.write_bytes(await request.read())
            return web.Response()
        if place.is_dir():
            links = "".join(
                f'<a href="{each.name.replace("%", "%25").replace("?", "%3F")}{"/" * each.is_dir()}">x</a>'
                for each in place.iterdir()
            )
            links += '<a href="?C=N;O=D">sort</a><a href="../">up</a><a href="http://elsewhere/x">else</a>'
            return web.Response(text=links, content_type="text/html")
        if not place.is_file():
            raise web.HTTPNotFound
        return web.FileResponse(place)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    """Serve a directory."""
    made = Server(tmp_path)
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", made.answer)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    made.url = f"http://{host}:{port}"
    yield made
    await runner.cleanup()


async def test_a_server_is_listed_and_read_in_blocks(server: Server) -> None:
    (server.directory / "directory").mkdir()
    (server.directory / "directory" / "file").write_bytes(DATA)
    os.utime(server.directory / "directory" / "file", (1_700_000_000, 1_700_000_000))
    (server.directory / "100% sure?").write_bytes(b"odd name")
    filesystem = open_url(server.url, block_size=131072)
    assert filesystem._remote.asynchronous
    async with mount(filesystem) as client:
        assert sorted(await client.listdir("/")) == ["100% sure?", "directory"]
        assert await client.listdir("/directory") == ["file"]
        attr = await client.stat("/directory/file")
        assert attr.size == len(DATA)
        assert attr.mtime_ns == 1_700_000_000 * 10**9
        assert await client.read_bytes("/directory/file") == DATA
        assert await client.read_bytes("/100% sure?") == b"odd name"
        ranges = [held for method, path, held in server.asked if held and path == "/directory/file"]
        assert sorted(ranges) == ["bytes=0-131071", "bytes=131072-262143", "bytes=262144-299999"]
        assert not await client.exists("/missing")


async def test_names_do_not_lead_out_of_the_place(server: Server) -> None:
    (server.directory / "place").mkdir()
    (server.directory / "secret").write_bytes(b"secret")
    async with mount(open_url(f"{server.url}/place")) as client:
        for name in ("%2e%2e%2fsecret", "..%2fsecret", "%2e%2e", "x?y", "x#y"):
            assert not await client.exists(f"/{name}")
    paths = {path for _, path, _ in server.asked}
    assert all(path.startswith("/place") for path in paths)
    assert "/place/..%252fsecret" in {path.replace("%252F", "%252f") for path in paths}


async def test_servers_are_read_however_little_they_can(server: Server) -> None:
    async with mount(open_url(server.url, block_size=65536)) as client:
        assert await client.read_bytes("/no-ranges") == DATA
        assert await client.read_bytes("/chunked") == DATA[:2000]
    async with mount(open_url(server.url, block_size=4096, cache_size=500)) as client:
        with pytest.raises(OSError, match="File too large"):
            await client.read_bytes("/chunked")


@pytest.mark.parametrize(("path", "number"), [("/broken", errno.EIO), ("/forbidden", errno.EACCES)])
async def test_what_the_server_refuses_is_an_error(server: Server, path: str, number: int) -> None:
    async with mount(open_url(server.url)) as client:
        with pytest.raises(OSError, match=os.strerror(number)):
            await client.read_bytes(path)


async def test_a_server_that_takes_files_can_be_written(server: Server) -> None:
    (server.directory / "there").write_bytes(b"there")
    async with mount(open_url(server.url, writable=True, cache_seconds=0.0)) as client:
        await client.write_bytes("/new", DATA)
        assert (server.directory / "new").read_bytes() == DATA
        await client.truncate("/there", 2)
        assert (server.directory / "there").read_bytes() == b"th"
        with pytest.raises(OSError, match="not supported"):
            await client.unlink("/there")
