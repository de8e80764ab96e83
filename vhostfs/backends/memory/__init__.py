"""A file system in the daemon's own memory, which behaves as Linux's tmpfs does.

space       limits of size and inodes
ranges      sets of page numbers
data        the contents of a file: runs of pages, and holes
nodes       files, directories, links and the rest
xattrs      extended attributes
filesystem  the operations
settings    the keys of the configuration
"""

from vhostfs.backends.memory.filesystem import Handle, MemoryFilesystem
from vhostfs.backends.memory.settings import MemorySettings

__all__ = ["Handle", "MemoryFilesystem", "MemorySettings"]
