"""The errors that vhostfs raises by itself, as one tree.

    VhostfsError
    ├── ConfigurationError     what the user wrote cannot be served
    └── ProtocolError          what a front-end sent breaks the vhost-user protocol

An operating system's refusal stays an OSError, with its errno.
"""

from __future__ import annotations


class VhostfsError(Exception):
    """Base of all errors that vhostfs raises by itself."""


class ConfigurationError(VhostfsError):
    """Raised when a configuration file or command line cannot be served; the text names place, key and reason."""


class ProtocolError(VhostfsError):
    """Raised when a front-end breaks the vhost-user protocol; it costs that connection and nothing else."""
