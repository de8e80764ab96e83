"""One device with many mounts, in a guest with a real kernel: a work session across all of them."""

from __future__ import annotations

import contextlib
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.guests.daemon import Daemon
from tests.guests.guest import Guest
from tests.integration.lanes import UML, Lane

pytestmark = pytest.mark.parametrize("lane", [UML], indirect=True)

FILES = 40

MAKE_TREE = f"""
mkdir -p tree/deep/er && cd tree || exit 1
for i in $(seq {FILES}); do echo "$i" >deep/er/file$i; done
head -c 300000 /dev/urandom >large
ln -s deep/er/file1 link
ln deep/er/file2 deep/second
chmod 640 large && touch -d 2001-02-03 deep/er/file3
"""

COPY = """
same() { diff -r --no-dereference tree "$1" && [ "$(looks tree)" = "$(looks "$1")" ]; }
looks() { (cd "$1" && stat -c '%n %h %a %Y' large deep/second deep/er/file3); }
set -e
from=tree
for to in memory/tree nested/tree overlay/tree; do
    cp -a $from $to
    same $to
    from=$to
done
find tree memory/tree nested/tree overlay/tree -type f | wc -l
find . -xdev -name 'file?*' | wc -l
"""

CLONE = """
set -e
git init -q memory/repository && cd memory/repository && cp -a ../tree . && git add .
git -c user.name=a -c user.email=a@b commit -qm all
cd ../../nested && git clone -q ../memory/repository cloned && git -C cloned fsck --strict 2>/dev/null
diff -r --no-dereference cloned/tree ../tree
"""

MOVE = """
set -e
mv nested/tree moved && [ ! -e nested/tree ] && diff -r --no-dereference moved tree
mv moved memory/moved && [ ! -e moved ] && diff -r --no-dereference memory/moved tree
"""

ERRORS_BETWEEN = """
import errno, os
def error(call, *arguments):
    try:
        call(*arguments)
    except OSError as raised:
        return errno.errorcode[raised.errno]
    return "none"
for source, target in (("tree/large", "memory"), ("memory/tree/large", "nested")):
    print(error(os.rename, source, f"{target}/large"), error(os.link, source, f"{target}/large"))
    print(error(os.rmdir, target), error(os.rename, target, "elsewhere"))
"""

WORK = """
set -e
for round in 1 2 3 4 5 6; do
    mkdir memory/work nested/work
    cp -a tree memory/work/
    tar -C memory/work -cf - tree | tar -C nested/work -xf -
    diff -r --no-dereference tree nested/work/tree
    find memory/work -type f | wc -l
    rm -r memory/work nested/work
    touch /tmp/round$round
done
"""

HOLD = """
exec 3<fifth/file
touch /tmp/held
until [ -e /tmp/gone ]; do sleep 0.1; done
stat -L /proc/self/fd/3 2>&1 | grep -o 'Stale file handle'
"""


def passthrough(directory: Path) -> dict[str, Any]:
    return {"type": "passthrough", "shared_dir": str(directory)}


def directories(tmp_path: Path, *names: str) -> list[Path]:
    """Make directories of the host, each with a file that has its name in it."""
    made = [tmp_path / name for name in names]
    for directory in made:
        directory.mkdir()
        (directory / "file").write_text(f"{directory.name}\n")
    return made


def wait_for(guest: Guest, condition: str) -> None:
    """Wait until a command succeeds in the guest, which may trust for a second what it knows of a name."""
    guest.run(
        f"tries=200; until {condition}; do tries=$((tries - 1)); [ $tries -gt 0 ] || exit; sleep 0.1; done"
    )


def test_a_guest_works_across_mounts_that_come_and_go(lane: Lane, tmp_path: Path) -> None:
    share, nested, fifth, sixth = directories(tmp_path, "share", "nested", "fifth", "sixth")
    mounts = {
        "/": passthrough(share),
        "/memory": {"type": "memory", "size": "64M"},
        "/overlay": {
            "type": "overlay",
            "upper": {"type": "memory", "size": "64M"},
            "lower": [
                {"type": "directory", "shared_dir": str(sixth)},
                {"type": "archive", "path": str(tmp_path / "archive.tar.gz")},
            ],
        },
        "/archive": {"type": "archive", "path": str(tmp_path / "archive.tar.gz")},
        "/nested": passthrough(nested),
        "/memory/way/nested": passthrough(nested),
    }
    with tarfile.open(tmp_path / "archive.tar.gz", "w:gz") as archive:
        archive.add(fifth, "packed")
    for place in mounts:
        (share / place[1:].partition("/")[0]).mkdir(exist_ok=True)
    with contextlib.ExitStack() as stack:
        daemon = stack.enter_context(Daemon(tmp_path, share, "tree", mounts=mounts))
        guest = stack.enter_context(lane.guest_with([daemon]))
        root = guest.mount(daemon.tag)

        def run(script: str) -> list[str]:
            return guest.run(f"cd {root} || exit 1\n{script}", timeout=120).split()

        # Linux makes it a mount when something first walks into it, which stat of the name does not.
        places = " ".join(f".{place}/." for place in mounts)
        devices = run(f"stat -c %d {places}")
        assert len(set(devices)) == len(mounts)

        run(MAKE_TREE)
        assert run(COPY) == [str(4 * (FILES + 2)), str(FILES)]
        run(CLONE)
        run(MOVE)
        run("cp -a archive/packed memory/ && echo more >>overlay/packed/file && rm overlay/file")
        found = run("cat memory/packed/file memory/way/nested/file overlay/packed/file archive/packed/file")
        assert found == ["fifth", "nested", "fifth", "more", "fifth"]
        assert run("ls overlay") == ["packed", "tree"]
        assert run(f"python3 - <<'EOF'\n{ERRORS_BETWEEN}\nEOF") == ["EXDEV", "EXDEV", "EBUSY", "EBUSY"] * 2

        working = guest.start(f"cd {root}\n{WORK}")
        wait_for(guest, "[ -e /tmp/round1 ]")
        assert run("[ -e fifth ] || echo none") == ["none"]
        daemon.mounts("add", "/fifth", json.dumps(passthrough(fifth)))
        wait_for(guest, f"[ -e {root}/fifth/file ]")
        (device,) = run("stat -c %d fifth")
        assert device not in devices
        run("cp -a tree fifth/ && diff -r --no-dereference tree fifth/tree")
        assert (fifth / "tree/large").stat().st_size == 300_000

        holding = guest.start(f"cd {root}\n{HOLD}")
        wait_for(guest, "[ -e /tmp/held ]")
        daemon.mounts("remove", "/fifth")
        wait_for(guest, f"[ ! -e {root}/fifth ]")
        guest.run("touch /tmp/gone")
        assert holding.wait() == "Stale file handle\n"
        daemon.mounts("add", "/fifth", json.dumps(passthrough(sixth)))
        wait_for(guest, f"[ -e {root}/fifth/file ]")
        assert run("cat fifth/file; ls fifth") == ["sixth", "file"]

        assert working.wait().split() == [str(FILES + 2)] * 6
        assert [line.split()[1] for line in daemon.mounts("list")] == sorted([*mounts, "/fifth"])
