"""fsspec's implementations as one: asynchronous ones on our own event loop, all others in threads.

An implementation is imported when it is configured, and made when a session begins: some of them start
threads, which must not be there before the sandbox is.
"""

from __future__ import annotations

import asyncio
import errno
import importlib
import logging
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Final

from vhostfs.errors import ConfigurationError
from vhostfs.filesystem.refusals import refused

logger = logging.getLogger(__name__)

_CHAIN: Final = "::"
_STATUSES: Final = {
    401: errno.EACCES,
    403: errno.EACCES,
    404: errno.ENOENT,
    405: errno.EROFS,
    410: errno.ENOENT,
    413: errno.EFBIG,
    416: errno.EIO,
    429: errno.EBUSY,
    507: errno.ENOSPC,
}
"""What answers of an HTTP server mean."""


class Remote:
    """The place that a URL names. Methods take paths of the implementation, and raise OSError alone."""

    def __init__(self, url: str, options: Mapping[str, Any], concurrency: int) -> None:
        """Import the implementation; at most `concurrency` calls are under way at once.

        ConfigurationError where there is none, or where a package that it needs is missing.
        """
        try:
            from fsspec import get_filesystem_class  # noqa: PLC0415 - the extra may be missing
            from fsspec.core import split_protocol, url_to_fs  # noqa: PLC0415
        except ModuleNotFoundError:
            raise ConfigurationError("mounts of type fsspec need the extra vhostfs[fsspec]") from None
        self._url: Final = url
        self._options: Final = dict(options)
        self._concurrency: Final = concurrency
        links = url.split(_CHAIN)
        try:
            classes = [get_filesystem_class(split_protocol(link)[0] or link) for link in links]
        except (ImportError, ValueError) as error:
            raise ConfigurationError(f"{url} cannot be served: {error}") from None
        self.asynchronous: Final = len(classes) == 1 and bool(getattr(classes[0], "async_impl", False))
        """Whether its own coroutines are used, on the session's event loop."""
        # What is imported late would be out of sight in the sandbox: all that making an implementation, or
        # asking for a host's address, needs. One with coroutines is made without any thread.
        "host".encode("idna")
        with suppress(ImportError):
            importlib.import_module("fsspec.implementations.chained")
        if self.asynchronous:
            try:
                url_to_fs(url, asynchronous=True, **{**self._options, "skip_instance_cache": True})
            except (ImportError, ValueError, TypeError) as error:
                raise ConfigurationError(f"{url} cannot be served: {error}") from None
        self.is_http: Final = len(links) == 1 and url.startswith(("http://", "https://"))
        self.root = ""
        """The path of the root directory, without a slash at its end where that is not all of it."""
        self.root_marker = ""
        """What paths begin with."""
        self._filesystem: Any = None
        self._threads: ThreadPoolExecutor | None = None
        self._gate = asyncio.Semaphore(concurrency)

    # ---- Life ----

    async def begin(self) -> None:
        """Make the implementation's object. OSError EIO where it cannot be made."""
        if self._filesystem is not None:
            return
        from fsspec.core import url_to_fs  # noqa: PLC0415

        options = {**self._options, "skip_instance_cache": True}
        self._gate = asyncio.Semaphore(self._concurrency)
        self._threads = ThreadPoolExecutor(self._concurrency, "vhostfs-fsspec")
        if self.asynchronous:
            filesystem, path = url_to_fs(self._url, asynchronous=True, **options)
            if hasattr(filesystem, "set_session"):
                await filesystem.set_session()
        else:
            loop = asyncio.get_running_loop()
            if _CHAIN in self._url:
                # Options of a chain are its links' own.
                options = self._options
            filesystem, path = await loop.run_in_executor(
                self._threads, lambda: url_to_fs(self._url, **options)
            )
        listings: Any = getattr(filesystem, "dircache", None)
        if "use_listings_cache" not in self._options and hasattr(listings, "use_listings_cache"):
            # What is remembered here ends some time; there it need not.
            listings.use_listings_cache = False
        self._filesystem = filesystem
        self.root_marker = str(filesystem.root_marker)
        self.root = path.rstrip("/") or self.root_marker

    async def end(self) -> None:
        """Let go what was made."""
        filesystem, self._filesystem = self._filesystem, None
        session: Any = getattr(filesystem, "_session", None)
        if self.asynchronous and hasattr(session, "close"):
            closing = session.close()
            if asyncio.iscoroutine(closing):
                await closing
        threads, self._threads = self._threads, None
        if threads is not None:
            await asyncio.to_thread(threads.shutdown)

    async def _call(self, name: str, *arguments: Any, **keywords: Any) -> Any:
        async with self._gate:
            try:
                if self.asynchronous:
                    return await getattr(self._filesystem, f"_{name}")(*arguments, **keywords)
                method = getattr(self._filesystem, name)
                # What was not begun when nobody waits for it any more is not begun at all.
                return await asyncio.get_running_loop().run_in_executor(
                    self._threads, lambda: method(*arguments, **keywords)
                )
            except Exception as error:
                raise _as_os_error(error, name, self._url) from error

    # ---- What there is ----

    async def info(self, path: str) -> dict[str, Any]:
        """Return what is known of a path. ENOENT."""
        found: dict[str, Any] = await self._call("info", path)
        return found

    async def list(self, path: str) -> list[dict[str, Any]]:
        """Return what is known of each path in a directory. ENOENT."""
        found = await self._call("ls", path, detail=True)
        return list(found)

    async def read(self, path: str, start: int | None = None, end: int | None = None) -> bytes:
        """Return a part of a file, or all of it."""
        if start is None:
            data = await self._call("cat_file", path)
        else:
            data = await self._call("cat_file", path, start=start, end=end)
        return bytes(data)

    # ---- Changes ----

    async def replace(self, path: str, data: bytes) -> None:
        """Make a file with this content, or replace its content."""
        await self._call("pipe_file", path, data)

    async def remove(self, path: str) -> None:
        """Remove a file."""
        await self._call("rm_file", path)

    async def copy(self, path: str, new_path: str) -> None:
        """Copy a file, replacing what is there."""
        await self._call("cp_file", path, new_path)

    async def make_directory(self, path: str) -> None:
        """Make a directory, where there are any."""
        await self._call("mkdir", path, create_parents=False)

    async def remove_directory(self, path: str) -> None:
        """Remove an empty directory, where there are any."""
        if hasattr(self._filesystem, "_rmdir" if self.asynchronous else "rmdir"):
            await self._call("rmdir", path)


def _as_os_error(error: Exception, name: str, url: str) -> OSError:
    """Return what an implementation's exception means to a guest."""
    if isinstance(error, OSError) and (error.errno is not None or type(error) is not OSError):
        return error
    if isinstance(error, NotImplementedError):
        return refused(errno.EOPNOTSUPP)
    number = _STATUSES.get(getattr(error, "status", 0), errno.EIO)
    if number == errno.EIO:
        logger.warning("%s of %s failed: %s: %s", name, url, type(error).__name__, error)
    return OSError(number, os.strerror(number))
