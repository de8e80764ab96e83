"""File systems used by programs of this process, without a mount: files, walks, copies.

handle      FileHandle: a file as anyio.open_file has it
walking     walk: as os.walk
copying     copy_tree, between any two file systems
beginning   begun: the life of a file system that no session serves
places      from paths to nodes
open_file   reads and writes at offsets
buffered    streams of bytes; text: streams of text
buffers     memory lent to operations
"""

from vhostfs.files.beginning import begun
from vhostfs.files.copying import Copied, CopyOptions, copy_tree
from vhostfs.files.handle import FileHandle
from vhostfs.files.walking import walk

__all__ = ["Copied", "CopyOptions", "FileHandle", "begun", "copy_tree", "walk"]
