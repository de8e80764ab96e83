"""A bucket in a guest with a real kernel: a repository on it, and a program, outlive the guest."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fake_s3.server import ACCESS_KEY, BUCKET, SECRET, FakeS3, listening
from tests.guests.daemon import Daemon
from tests.integration.lanes import Lane

# QEMU's guest boots for a quarter of a minute: one with the default is enough.
pytestmark = pytest.mark.parametrize(
    ("lane", "write"),
    [
        pytest.param("uml", "sync", marks=pytest.mark.uml),
        pytest.param("uml", "writeback", marks=pytest.mark.uml),
        pytest.param("qemu", "sync", marks=pytest.mark.qemu),
    ],
    indirect=["lane"],
)

MAKE_REPOSITORY = """
set -e
mkdir /tmp/repository && cd /tmp/repository && git init -q .
for i in $(seq 30); do echo "int f$i(void) { return $i; }" >file$i.c; done
printf 'int f7(void); int main(void) { return f7(); }\\n' >main.c
ln -s main.c link.c && chmod 755 file1.c
git add . && git -c user.name=a -c user.email=a@b commit -qm all
"""

WORK = """
set -e
cd {bucket} && git clone -q /tmp/repository cloned && cd cloned
[ -z "$(git status --short)" ]
cc -o program main.c file7.c
./program && exit 1 || [ $? -eq 7 ]
mkdir -p deep/er && mv program deep/er/program && mv deep moved
tar -cf moved/all.tar *.c && head -c 3000000 /dev/zero | tr '\\0' x >moved/large
"""

MAKE_ARCHIVE = """
set -e
mkdir /tmp/many && cd /tmp/many && mkdir one two
for i in $(seq 150); do echo "$i" >one/file$i; echo "$i" >two/file$i; done
chmod 755 one/file1 && touch -d @1234567890 two/file150
for i in $(seq 10); do ln -s file$i one/link$i; done
chown -R 1000:1000 . && tar -cf /tmp/many.tar .
"""

UNPACK = """
set -e
mkdir {bucket}/unpacked && cd {bucket}/unpacked && tar -xf /tmp/many.tar && sync -f .
find . | wc -l
"""

FIND_AGAIN = """
set -e
cd {bucket}/cloned
git status --short
git fsck --strict 2>/dev/null
[ "$(readlink link.c)" = main.c ] && [ -x file1.c ] && [ ! -x file2.c ]
moved/er/program && exit 1 || [ $? -eq 7 ]
tar -tf moved/all.tar | wc -l
tr -d x <moved/large | wc -c
"""


@pytest.fixture
def store() -> Iterator[FakeS3]:
    """A store that runs on a thread of its own."""
    server = FakeS3()
    with listening(server):
        yield server


def test_a_repository_on_a_bucket_outlives_its_guest(
    lane: Lane, write: str, store: FakeS3, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text(SECRET)
    (tmp_path / "state").mkdir()
    bucket = {
        "type": "s3",
        "bucket": BUCKET,
        "endpoint": store.url,
        "access_key": ACCESS_KEY,
        "secret_key_file": str(tmp_path / "secret"),
        "write": write,
        "state_dir": str(tmp_path / "state"),
    }
    for number, script in enumerate((WORK, FIND_AGAIN)):
        with contextlib.ExitStack() as stack:
            place = tmp_path / f"daemon-{number}"
            place.mkdir()
            daemon = stack.enter_context(Daemon(place, tmp_path, "bucket", mounts={"/": bucket}))
            # Another guest, whatever a lane's guests are otherwise used for.
            guest = stack.enter_context((lane.own_guest if number else lane.guest_with)([daemon]))
            mounted = guest.mount("bucket")
            if number == 0:
                guest.run(MAKE_REPOSITORY)
                guest.run(MAKE_ARCHIVE)
                store.requests.clear()
                entries = int(guest.run(UNPACK.format(bucket=mounted), timeout=240))
                assert entries == 313
                assert store.requests.total() <= 1.1 * entries, store.requests
            said = guest.run(script.format(bucket=mounted), timeout=240)
    assert said.split()[-2:] == ["32", "0"]
    assert "?? moved/" in said
    assert store.bucket.objects["cloned/link.c"].data == b"main.c"
    assert not store.bucket.uploads
