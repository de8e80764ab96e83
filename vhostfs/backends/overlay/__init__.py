"""File systems one over the other, in overlayfs' format: the kernel mounts what this wrote, and vice versa.

filesystem  the operations
tree        the merged tree: its nodes, and lookups over the layers
listing     merged directories
changes     new, removed and other names
copyup      how files come into the upper layer
data        copies of data and attributes between file systems
layers      one layer: its file system, the lookups of it that are held
marks       overlayfs' own attributes, whiteouts, redirects
notices     what layers tell the kernel of their nodes
settings    the mount `overlay` of the configuration
"""

from vhostfs.backends.overlay.filesystem import OverlayFilesystem
from vhostfs.backends.overlay.settings import OverlaySettings

__all__ = ["OverlayFilesystem", "OverlaySettings"]
