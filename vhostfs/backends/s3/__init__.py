"""A bucket as a file system: objects are files, and what POSIX knows beyond that stands in their metadata."""

from __future__ import annotations

from vhostfs.backends.s3.settings import S3Settings

__all__ = ["S3Settings"]
