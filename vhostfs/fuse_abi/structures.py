"""The structures of requests and replies, field for field as <linux/fuse.h> 7.45 has them.

A request is InHeader, then the fixed arguments of its opcode, then names and data; a reply is OutHeader,
then its arguments. Which structure goes with which opcode is said in the first line of each. The sizes that
older minor versions know are in compatibility.py.
"""

from __future__ import annotations

from typing import Annotated

from vhostfs.fuse_abi.layout import S32, S64, U16, U32, U64, Structure, structure


@structure("fuse_in_header")
class InHeader(Structure):
    """Begin every request. len counts all of it, total_extlen the extensions at its end in units of 8."""

    len: U32 = 0
    opcode: U32 = 0
    unique: U64 = 0
    nodeid: U64 = 0
    uid: U32 = 0
    gid: U32 = 0
    pid: U32 = 0
    total_extlen: U16 = 0
    padding: U16 = 0


@structure("fuse_out_header")
class OutHeader(Structure):
    """Begin every reply. len counts the whole reply; error is 0 or a negated errno."""

    len: U32 = 0
    error: S32 = 0
    unique: U64 = 0


@structure("fuse_attr")
class Attr(Structure):
    """The attributes of a file. Times are in seconds since 1970, nanoseconds apart; a block has 512 bytes."""

    ino: U64 = 0
    size: U64 = 0
    blocks: U64 = 0
    atime: U64 = 0
    mtime: U64 = 0
    ctime: U64 = 0
    atimensec: U32 = 0
    mtimensec: U32 = 0
    ctimensec: U32 = 0
    mode: U32 = 0
    nlink: U32 = 0
    uid: U32 = 0
    gid: U32 = 0
    rdev: U32 = 0
    blksize: U32 = 0
    flags: U32 = 0


@structure("fuse_entry_out")
class EntryOut(Structure):
    """Answer LOOKUP, SYMLINK, MKNOD, MKDIR, LINK, CREATE, TMPFILE: a name, its node, how long they hold.

    nodeid 0 answers LOOKUP alone: the name does not exist, and may be remembered so for entry_valid.
    """

    nodeid: U64 = 0
    generation: U64 = 0
    entry_valid: U64 = 0
    attr_valid: U64 = 0
    entry_valid_nsec: U32 = 0
    attr_valid_nsec: U32 = 0
    attr: Attr = Attr()


@structure("fuse_forget_in")
class ForgetIn(Structure):
    """FORGET: drop nlookup references of the node. Unanswered."""

    nlookup: U64 = 0


@structure("fuse_batch_forget_in")
class BatchForgetIn(Structure):
    """BATCH_FORGET: count ForgetOne follow. Unanswered."""

    count: U32 = 0
    dummy: U32 = 0


@structure("fuse_forget_one")
class ForgetOne(Structure):
    """One node of BATCH_FORGET."""

    nodeid: U64 = 0
    nlookup: U64 = 0


@structure("fuse_getattr_in")
class GetattrIn(Structure):
    """GETATTR. fh counts with GetattrFlags.FH."""

    getattr_flags: U32 = 0
    dummy: U32 = 0
    fh: U64 = 0


@structure("fuse_attr_out")
class AttrOut(Structure):
    """Answer GETATTR and SETATTR."""

    attr_valid: U64 = 0
    attr_valid_nsec: U32 = 0
    dummy: U32 = 0
    attr: Attr = Attr()


@structure("fuse_sx_time")
class SxTime(Structure):
    """A time in Statx."""

    tv_sec: S64 = 0
    tv_nsec: U32 = 0
    reserved: S32 = 0


@structure("fuse_statx")
class Statx(Structure):
    """The attributes of a file as statx(2) has them."""

    mask: U32 = 0
    blksize: U32 = 0
    attributes: U64 = 0
    nlink: U32 = 0
    uid: U32 = 0
    gid: U32 = 0
    mode: U16 = 0
    spare0: U16 = 0
    ino: U64 = 0
    size: U64 = 0
    blocks: U64 = 0
    attributes_mask: U64 = 0
    atime: SxTime = SxTime()
    btime: SxTime = SxTime()
    ctime: SxTime = SxTime()
    mtime: SxTime = SxTime()
    rdev_major: U32 = 0
    rdev_minor: U32 = 0
    dev_major: U32 = 0
    dev_minor: U32 = 0
    spare2: Annotated[bytes, "112s"] = bytes(112)


@structure("fuse_statx_in")
class StatxIn(Structure):
    """STATX. fh counts with GetattrFlags.FH; sx_mask holds STATX_* bits."""

    getattr_flags: U32 = 0
    reserved: U32 = 0
    fh: U64 = 0
    sx_flags: U32 = 0
    sx_mask: U32 = 0


@structure("fuse_statx_out")
class StatxOut(Structure):
    """Answer STATX."""

    attr_valid: U64 = 0
    attr_valid_nsec: U32 = 0
    flags: U32 = 0
    spare: Annotated[bytes, "16s"] = bytes(16)
    stat: Statx = Statx()


@structure("fuse_setattr_in")
class SetattrIn(Structure):
    """SETATTR. valid (SetattrValid) says which fields count."""

    valid: U32 = 0
    padding: U32 = 0
    fh: U64 = 0
    size: U64 = 0
    lock_owner: U64 = 0
    atime: U64 = 0
    mtime: U64 = 0
    ctime: U64 = 0
    atimensec: U32 = 0
    mtimensec: U32 = 0
    ctimensec: U32 = 0
    mode: U32 = 0
    unused4: U32 = 0
    uid: U32 = 0
    gid: U32 = 0
    unused5: U32 = 0


@structure("fuse_mknod_in")
class MknodIn(Structure):
    """MKNOD, before the name."""

    mode: U32 = 0
    rdev: U32 = 0
    umask: U32 = 0
    padding: U32 = 0


@structure("fuse_mkdir_in")
class MkdirIn(Structure):
    """MKDIR, before the name."""

    mode: U32 = 0
    umask: U32 = 0


@structure("fuse_rename_in")
class RenameIn(Structure):
    """RENAME, before the old name and the new one. newdir is the nodeid of the directory to move to."""

    newdir: U64 = 0


@structure("fuse_rename2_in")
class Rename2In(Structure):
    """RENAME2, before the old name and the new one. flags are RenameFlags."""

    newdir: U64 = 0
    flags: U32 = 0
    padding: U32 = 0


@structure("fuse_link_in")
class LinkIn(Structure):
    """LINK, before the new name."""

    oldnodeid: U64 = 0


@structure("fuse_open_in")
class OpenIn(Structure):
    """OPEN and OPENDIR. flags are those of open(2), open_flags OpenRequestFlags."""

    flags: U32 = 0
    open_flags: U32 = 0


@structure("fuse_create_in")
class CreateIn(Structure):
    """CREATE and TMPFILE, before the name."""

    flags: U32 = 0
    mode: U32 = 0
    umask: U32 = 0
    open_flags: U32 = 0


@structure("fuse_open_out")
class OpenOut(Structure):
    """Answer OPEN and OPENDIR, and after EntryOut CREATE and TMPFILE. open_flags are OpenReplyFlags."""

    fh: U64 = 0
    open_flags: U32 = 0
    backing_id: S32 = 0


@structure("fuse_release_in")
class ReleaseIn(Structure):
    """RELEASE and RELEASEDIR."""

    fh: U64 = 0
    flags: U32 = 0
    release_flags: U32 = 0
    lock_owner: U64 = 0


@structure("fuse_flush_in")
class FlushIn(Structure):
    """FLUSH: a descriptor of the file was closed; the POSIX locks of lock_owner go."""

    fh: U64 = 0
    unused: U32 = 0
    padding: U32 = 0
    lock_owner: U64 = 0


@structure("fuse_read_in")
class ReadIn(Structure):
    """READ, READDIR and READDIRPLUS: up to size bytes from offset, in a directory a cookie."""

    fh: U64 = 0
    offset: U64 = 0
    size: U32 = 0
    read_flags: U32 = 0
    lock_owner: U64 = 0
    flags: U32 = 0
    padding: U32 = 0


@structure("fuse_write_in")
class WriteIn(Structure):
    """WRITE, before the data."""

    fh: U64 = 0
    offset: U64 = 0
    size: U32 = 0
    write_flags: U32 = 0
    lock_owner: U64 = 0
    flags: U32 = 0
    padding: U32 = 0


@structure("fuse_write_out")
class WriteOut(Structure):
    """Answer WRITE and COPY_FILE_RANGE."""

    size: U32 = 0
    padding: U32 = 0


@structure("fuse_fsync_in")
class FsyncIn(Structure):
    """FSYNC and FSYNCDIR."""

    fh: U64 = 0
    fsync_flags: U32 = 0
    padding: U32 = 0


@structure("fuse_kstatfs")
class Kstatfs(Structure):
    """What StatfsOut holds, in the words of statvfs(3)."""

    blocks: U64 = 0
    bfree: U64 = 0
    bavail: U64 = 0
    files: U64 = 0
    ffree: U64 = 0
    bsize: U32 = 0
    namelen: U32 = 0
    frsize: U32 = 0
    padding: U32 = 0
    spare: Annotated[bytes, "24s"] = bytes(24)


@structure("fuse_statfs_out")
class StatfsOut(Structure):
    """Answer STATFS."""

    st: Kstatfs = Kstatfs()


@structure("fuse_setxattr_in")
class SetxattrIn(Structure):
    """SETXATTR, before the name and the value. Only InitFlags.SETXATTR_EXT brings the last 8 bytes."""

    size: U32 = 0
    flags: U32 = 0
    setxattr_flags: U32 = 0
    padding: U32 = 0


@structure("fuse_getxattr_in")
class GetxattrIn(Structure):
    """GETXATTR, before the name, and LISTXATTR. size 0 asks for the size that a value needs."""

    size: U32 = 0
    padding: U32 = 0


@structure("fuse_getxattr_out")
class GetxattrOut(Structure):
    """Answer GETXATTR and LISTXATTR of size 0; all other sizes are answered by the value."""

    size: U32 = 0
    padding: U32 = 0


@structure("fuse_file_lock")
class FileLock(Structure):
    """A lock on the bytes from start to end, both included. type is F_RDLCK, F_WRLCK or F_UNLCK."""

    start: U64 = 0
    end: U64 = 0
    type: U32 = 0
    pid: U32 = 0


@structure("fuse_lk_in")
class LkIn(Structure):
    """GETLK, SETLK and SETLKW."""

    fh: U64 = 0
    owner: U64 = 0
    lk: FileLock = FileLock()
    lk_flags: U32 = 0
    padding: U32 = 0


@structure("fuse_lk_out")
class LkOut(Structure):
    """Answer GETLK: the lock in the way, or type F_UNLCK."""

    lk: FileLock = FileLock()


@structure("fuse_access_in")
class AccessIn(Structure):
    """ACCESS."""

    mask: U32 = 0
    padding: U32 = 0


@structure("fuse_init_in")
class InitIn(Structure):
    """INIT. Kernels before minor 36 send the first 16 bytes alone."""

    major: U32 = 0
    minor: U32 = 0
    max_readahead: U32 = 0
    flags: U32 = 0
    flags2: U32 = 0
    unused: Annotated[bytes, "44s"] = bytes(44)


@structure("fuse_init_out")
class InitOut(Structure):
    """Answer INIT. max_pages counts with MAX_PAGES, map_alignment with MAP_ALIGNMENT, and so on."""

    major: U32 = 0
    minor: U32 = 0
    max_readahead: U32 = 0
    flags: U32 = 0
    max_background: U16 = 0
    congestion_threshold: U16 = 0
    max_write: U32 = 0
    time_gran: U32 = 0
    max_pages: U16 = 0
    map_alignment: U16 = 0
    flags2: U32 = 0
    max_stack_depth: U32 = 0
    request_timeout: U16 = 0
    unused: Annotated[bytes, "22s"] = bytes(22)


@structure("fuse_interrupt_in")
class InterruptIn(Structure):
    """INTERRUPT: the caller of request unique was killed. Unanswered."""

    unique: U64 = 0


@structure("fuse_bmap_in")
class BmapIn(Structure):
    """BMAP."""

    block: U64 = 0
    blocksize: U32 = 0
    padding: U32 = 0


@structure("fuse_bmap_out")
class BmapOut(Structure):
    """Answer BMAP."""

    block: U64 = 0


@structure("fuse_ioctl_in")
class IoctlIn(Structure):
    """IOCTL, before in_size bytes of argument."""

    fh: U64 = 0
    flags: U32 = 0
    cmd: U32 = 0
    arg: U64 = 0
    in_size: U32 = 0
    out_size: U32 = 0


@structure("fuse_ioctl_iovec")
class IoctlIovec(Structure):
    """Where an unrestricted ioctl wants its argument from: with IoctlFlags.RETRY after IoctlOut."""

    base: U64 = 0
    len: U64 = 0


@structure("fuse_ioctl_out")
class IoctlOut(Structure):
    """Answer IOCTL, before the data. result is what the ioctl returned."""

    result: S32 = 0
    flags: U32 = 0
    in_iovs: U32 = 0
    out_iovs: U32 = 0


@structure("fuse_poll_in")
class PollIn(Structure):
    """POLL."""

    fh: U64 = 0
    kh: U64 = 0
    flags: U32 = 0
    events: U32 = 0


@structure("fuse_poll_out")
class PollOut(Structure):
    """Answer POLL."""

    revents: U32 = 0
    padding: U32 = 0


@structure("fuse_fallocate_in")
class FallocateIn(Structure):
    """FALLOCATE. mode holds FALLOC_FL_* bits."""

    fh: U64 = 0
    offset: U64 = 0
    length: U64 = 0
    mode: U32 = 0
    padding: U32 = 0


@structure("fuse_lseek_in")
class LseekIn(Structure):
    """LSEEK, of SEEK_DATA and SEEK_HOLE."""

    fh: U64 = 0
    offset: U64 = 0
    whence: U32 = 0
    padding: U32 = 0


@structure("fuse_lseek_out")
class LseekOut(Structure):
    """Answer LSEEK."""

    offset: U64 = 0


@structure("fuse_copy_file_range_in")
class CopyFileRangeIn(Structure):
    """COPY_FILE_RANGE and COPY_FILE_RANGE_64: from the node of the header to nodeid_out."""

    fh_in: U64 = 0
    off_in: U64 = 0
    nodeid_out: U64 = 0
    fh_out: U64 = 0
    off_out: U64 = 0
    len: U64 = 0
    flags: U64 = 0


@structure("fuse_copy_file_range_out")
class CopyFileRangeOut(Structure):
    """Answer COPY_FILE_RANGE_64."""

    bytes_copied: U64 = 0


@structure("fuse_setupmapping_in")
class SetupmappingIn(Structure):
    """SETUPMAPPING: bring a part of a file into the DAX window."""

    fh: U64 = 0
    foffset: U64 = 0
    len: U64 = 0
    flags: U64 = 0
    moffset: U64 = 0


@structure("fuse_removemapping_in")
class RemovemappingIn(Structure):
    """REMOVEMAPPING: count RemovemappingOne follow."""

    count: U32 = 0


@structure("fuse_removemapping_one")
class RemovemappingOne(Structure):
    """One range of REMOVEMAPPING."""

    moffset: U64 = 0
    len: U64 = 0


@structure("fuse_syncfs_in")
class SyncfsIn(Structure):
    """SYNCFS."""

    padding: U64 = 0
