"""A FUSE session: what INIT agrees on, what is answered outside of it, what a new one forgets."""

from __future__ import annotations

import errno

import pytest

from tests.frontend.client import LINUX_6_1_FLAGS, LINUX_7_2_FLAGS, FuseClient
from tests.frontend.frontend import Frontend
from tests.operations.shares import HOST_LOCKS, Mount, Shares
from tests.operations.twins import errno_of
from vhostfs.fuse_abi.flags import InitFlags
from vhostfs.fuse_abi.opcodes import Opcode
from vhostfs.fuse_abi.structures import InitIn, InitOut

ALWAYS = (
    InitFlags.ASYNC_READ
    | InitFlags.ATOMIC_O_TRUNC
    | InitFlags.EXPORT_SUPPORT
    | InitFlags.BIG_WRITES
    | InitFlags.HAS_IOCTL_DIR
    | InitFlags.AUTO_INVAL_DATA
    | InitFlags.ASYNC_DIO
    | InitFlags.PARALLEL_DIROPS
    | InitFlags.MAX_PAGES
    | InitFlags.SETXATTR_EXT
    | InitFlags.INIT_EXT
    | InitFlags.CREATE_SUPP_GROUP
    | InitFlags.ALLOW_IDMAP
)
READDIRPLUS = InitFlags.DO_READDIRPLUS | InitFlags.READDIRPLUS_AUTO
USUAL = ALWAYS | READDIRPLUS | InitFlags.SUBMOUNTS


def taken(init: InitOut) -> InitFlags:
    """Return the flags that the daemon took."""
    return InitFlags.joined(init.flags, init.flags2)


@pytest.mark.parametrize(
    ("options", "flags"),
    [
        ((), USUAL),
        (("--xattr",), USUAL),
        (("--cache=never",), USUAL & ~READDIRPLUS),
        (("--no-readdirplus",), USUAL & ~READDIRPLUS),
        (("--no-announce-submounts",), USUAL & ~InitFlags.SUBMOUNTS),
        (("--writeback",), USUAL | InitFlags.WRITEBACK_CACHE),
        (("--writeback", "--cache=never"), USUAL & ~READDIRPLUS),
        (("--killpriv-v2",), USUAL | InitFlags.HANDLE_KILLPRIV_V2),
        (("--posix-acl=always",), USUAL | InitFlags.POSIX_ACL | InitFlags.DONT_MASK),
        (("--cache=never", "--allow-mmap"), (USUAL & ~READDIRPLUS) | InitFlags.DIRECT_IO_ALLOW_MMAP),
        (HOST_LOCKS, USUAL | InitFlags.POSIX_LOCKS | InitFlags.FLOCK_LOCKS),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_init_takes_the_flags_of_the_options(
    options: tuple[str, ...], flags: InitFlags, shares: Shares
) -> None:
    with shares.mounted(*options) as mount:
        assert taken(mount.init) == flags


def test_init_takes_only_what_the_kernel_offers(shares: Shares) -> None:
    with shares.mounted("--xattr", flags=LINUX_6_1_FLAGS) as mount:
        assert taken(mount.init) == USUAL & LINUX_6_1_FLAGS
    with shares.mounted("--xattr", flags=InitFlags.BIG_WRITES) as mount:
        assert taken(mount.init) == InitFlags.BIG_WRITES


def test_without_init_ext_no_flag_above_bit_31_is_taken(shares: Shares) -> None:
    with shares.mounted("--xattr", flags=LINUX_7_2_FLAGS & ~InitFlags.INIT_EXT) as mount:
        assert mount.init.flags2 == 0


def test_init_answers_limits_that_linux_accepts(mount: Mount) -> None:
    init = mount.init
    assert (init.major, init.minor >= 38) == (7, True)
    assert init.max_write >= 1 << 20
    assert init.max_pages == 256
    assert init.max_readahead <= 0x20000
    assert init.max_background > 0
    assert 0 < init.congestion_threshold <= init.max_background
    assert init.time_gran == 1
    assert init.map_alignment == 0
    assert init.max_stack_depth == 0
    assert init.request_timeout == 0


def test_a_newer_major_is_told_which_one_is_spoken(mount: Mount) -> None:
    reply = mount.client.init(major=8, minor=1)
    assert reply.major == 7


def test_an_older_major_is_refused(mount: Mount) -> None:
    assert errno_of(lambda: mount.client.init(major=6, minor=0)) == errno.EPROTO


def test_a_new_init_begins_a_new_session(mount: Mount) -> None:
    (mount.directory / "file").touch()
    node = mount.node("file")
    fh = mount.client.open(node).fh
    mount.client.init()
    assert errno_of(lambda: mount.client.getattr(node)) == errno.ESTALE
    assert errno_of(lambda: mount.client.read(node, fh, 10)) in {errno.EBADF, errno.ESTALE}
    mount.client.getattr(1)


def test_destroy_is_answered_and_ends_the_session(mount: Mount) -> None:
    (mount.directory / "file").touch()
    node = mount.node("file")
    mount.client.destroy()
    assert errno_of(lambda: mount.client.getattr(1)) is not None
    assert errno_of(lambda: mount.client.getattr(node)) is not None
    mount.client.destroy()
    mount.client.init()
    mount.client.getattr(1)
    assert errno_of(lambda: mount.client.getattr(node)) == errno.ESTALE


def test_before_init_requests_fail_and_forgets_are_taken(shares: Shares) -> None:
    with Frontend.start(shares.get("--xattr").daemon.socket) as frontend:
        client = FuseClient(frontend)
        assert errno_of(lambda: client.getattr(1)) == errno.EIO
        client.forget(1)
        client.init()
        client.getattr(1)


@pytest.mark.parametrize("opcode", [7, 19, 54, 63, 64, 255, 4095, 4096, 1 << 20, 26 << 24, 0, 0xFFFFFFFF])
def test_opcodes_that_nobody_knows_are_not_implemented(opcode: int, mount: Mount) -> None:
    assert errno_of(lambda: mount.client.request(opcode, 1, bytes(64), out_size=256)) == errno.ENOSYS


@pytest.mark.parametrize("opcode", [Opcode.BMAP, Opcode.POLL, Opcode.SETUPMAPPING, Opcode.REMOVEMAPPING])
def test_what_a_share_cannot_do_is_not_implemented(opcode: Opcode, mount: Mount) -> None:
    """ENOSYS makes Linux stop asking: no block devices below, no waking of pollers, no DAX window."""
    assert errno_of(lambda: mount.client.request(opcode, 1, bytes(64), out_size=64)) == errno.ENOSYS


@pytest.mark.parametrize("minor", [27, 31, 35, 36, 38, 45, 46, 1000])
def test_every_minor_of_living_kernels_is_served(minor: int, shares: Shares) -> None:
    with shares.mounted("--xattr", flags=LINUX_6_1_FLAGS, minor=minor) as mount:
        (mount.directory / "file").write_bytes(b"content")
        node = mount.node("file")
        assert mount.client.read(node, mount.client.open(node).fh, 100) == b"content"


def test_an_init_of_the_old_short_form_is_understood(shares: Shares) -> None:
    with Frontend.start(shares.get("--xattr").daemon.socket) as frontend:
        client = FuseClient(frontend)
        message = InitIn(7, 31, 0x20000, int(InitFlags.ASYNC_READ)).pack()[:16]
        reply = client.request(Opcode.INIT, 0, message, out_size=InitOut.SIZE)
        assert taken(InitOut.unpack_prefix(reply)) == InitFlags.ASYNC_READ
