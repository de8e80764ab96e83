"""vhostfs: share file systems with virtual machines over virtio-fs."""

__version__ = "0.1.0"
