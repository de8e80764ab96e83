"""Archives as read-only file systems: tar with its compressions, zip, squashfs.

index        names and attributes of all members, in memory
tar          members of a tar archive
zip          members of a zip archive
compression  a compressed stream, decompressed part by part
spool        temporary files without a name, within a bound
contents     what an open member's data is made of
filesystem   the operations of both
reader       a bound on what headers may take
squashfs     the format of squashfs images; squashfs_filesystem: their operations
settings     the keys of the configuration
"""

from vhostfs.backends.archive.filesystem import ArchiveFilesystem
from vhostfs.backends.archive.settings import ArchiveSettings, open_archive
from vhostfs.backends.archive.squashfs_filesystem import SquashfsFilesystem

__all__ = ["ArchiveFilesystem", "ArchiveSettings", "SquashfsFilesystem", "open_archive"]
