"""Whatever fsspec can open, as a file system: object stores, HTTP servers, archives elsewhere.

settings    the keys of the configuration
remote      fsspec's implementations, whether they are asynchronous or not, as one
names       from names to paths of an implementation and back; what it tells of a file
blocks      a cache of blocks of files
drafts      files that are being written, which are uploaded whole
nodes       which paths the kernel knows
filesystem  the operations
"""

from vhostfs.backends.fsspec.filesystem import FsspecFilesystem
from vhostfs.backends.fsspec.settings import FsspecSettings, open_url

__all__ = ["FsspecFilesystem", "FsspecSettings", "open_url"]
