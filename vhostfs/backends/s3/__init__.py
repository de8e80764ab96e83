"""A bucket as a file system: objects are files, and what POSIX knows beyond that stands in their metadata."""
