"""One FUSE session: requests in, operations of a file system called, replies out."""
