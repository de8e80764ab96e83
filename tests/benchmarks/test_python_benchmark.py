"""The comparison of file systems in Python: both kinds answer alike, and what falls short is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import report
from benchmarks.python.in_memory import AsyncDef, Def
from benchmarks.python.report import CallSamples, PythonComparison, RingSamples
from vhostfs.testing import mount

MACHINE = {"processor": "2 of some", "kernel": "6.18", "file system": "tmpfs", "load": "0.1"}


@pytest.fixture
def anyio_backend() -> str:
    """Return the event loop that sessions run on."""
    return "asyncio"


@pytest.mark.anyio
@pytest.mark.parametrize("kind", [Def, AsyncDef])
async def test_what_is_measured_is_the_share(tmp_path: Path, kind: type[Def | AsyncDef]) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "one").write_bytes(b"content")
    (tmp_path / "files" / "two").write_bytes(b"x" * 5000)
    async with mount(kind(str(tmp_path))) as client:
        assert await client.listdir("/files") == ["one", "two"]
        assert await client.read_bytes("/files/two") == b"x" * 5000
        assert (await client.stat("/files/one")).size == 7
        assert not await client.exists("/files/three")
        node = (await client.lookup((await client.lookup(1, "files")).nodeid, "one")).nodeid
        opened = await client.open_node(node)
        assert await client.write(node, opened.fh, 2, b"NT") == 2
        await client.release(node, opened.fh)
    assert (tmp_path / "files" / "one").read_bytes() == b"coNTent"


def test_what_falls_short_is_in_bold(tmp_path: Path) -> None:
    ring = [
        RingSamples("getattr", 32, {"def": [(300_000.0, 7.9)], "async def": [(100_000.0, 8.1)]}),
        RingSamples("getattr", 1, {"def": [(3.0, 99.0)], "async def": [(4.0, 99.0)]}),
    ]
    calls = [CallSamples("getattr", 1, {"vhostfs, def": [(90.0, 5.0)], "pyfuse3": [(45.0, 4.0)]})]
    kept = tmp_path / "kept"
    PythonComparison(MACHINE, ring, calls).save(kept)
    document = tmp_path / "document.md"
    document.write_text("before\n<!-- python: begin -->\nold\n<!-- python: end -->\nafter\n")
    assert report.main(["--python", str(kept), "--document", str(document)]) == 0
    text = document.read_text()
    assert "| getattr | 32 | 300,000 | 7.9 | 100,000 | **8.1** |" in text
    assert "| getattr | 1 | 3 | 99.0 | 4 | 99.0 |" in text
    assert "| getattr | 1 | 5.0 | 4.0 | 90 | 45 | **1.25** | 2.00 |" in text
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
