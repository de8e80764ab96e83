"""Archives as read-only file systems: tar with its compressions, and zip.

index        names and attributes of all members, in memory
tar          members of a tar archive
zip          members of a zip archive
compression  a compressed stream, decompressed part by part
spool        temporary files without a name, within a bound
contents     what an open member's data is made of
filesystem   the operations
settings     the keys of the configuration
"""

from vhostfs.backends.archive.filesystem import ArchiveFilesystem
from vhostfs.backends.archive.settings import ArchiveSettings, open_archive

__all__ = ["ArchiveFilesystem", "ArchiveSettings", "open_archive"]
