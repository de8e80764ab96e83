"""The example of processes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from examples.processes import FILES, Processes
from vhostfs.testing import mount

pytestmark = [pytest.mark.anyio, pytest.mark.vhostfs_quiet]


async def test_a_process_is_a_directory_of_what_is_known_of_it() -> None:
    async with mount(Processes()) as client:
        me = f"/{os.getpid()}"
        assert await client.listdir(me) == list(FILES)
        assert (await client.read_bytes(f"{me}/parent")).decode() == f"{os.getppid()}\n"
        assert (await client.read_bytes(f"{me}/command")) == " ".join(sys.orig_argv).encode() + b"\n"
        assert (await client.stat(me)).uid == os.geteuid()


async def test_all_processes_are_listed_while_they_live() -> None:
    async with mount(Processes()) as client:
        pipe = subprocess.PIPE
        with subprocess.Popen(["cat"], bufsize=0, stdin=pipe, stdout=pipe) as process:  # noqa: ASYNC220
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(b"It runs.\n")
            process.stdout.readline()
            path = f"/{process.pid}"
            assert {str(process.pid), str(os.getpid())} <= set(await client.listdir("/"))
            assert await client.read_bytes(f"{path}/name") == b"cat\n"
        assert not await client.exists(path)


async def test_only_the_number_of_a_process_is_its_name() -> None:
    async with mount(Processes()) as client:
        for name in (f"0{os.getpid()}", "0", "-1", "٣", "self", "9" * 30, f"{os.getpid()}/environ"):
            assert not await client.exists(f"/{name}")
