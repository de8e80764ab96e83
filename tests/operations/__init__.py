"""Every FUSE operation against the daemon process, by the project's own front-end: no virtual machine."""
