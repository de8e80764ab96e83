"""The errors that vhostfs raises by itself, as one tree.

    VhostfsError
    ├── ConfigurationError     what the user wrote cannot be served
    ├── StartError             what the user wrote is right, and this host refuses it
    └── ProtocolError          what a front-end sent breaks the vhost-user protocol

An operating system's refusal while serving stays an OSError, with its errno.
"""

from __future__ import annotations


class VhostfsError(Exception):
    """Base of all errors that vhostfs raises by itself."""


class ConfigurationError(VhostfsError):
    """Raised when a configuration cannot be served; the text names place, key and reason, a fault a line."""


class StartError(VhostfsError):
    """Raised when the daemon cannot start on this host; the text is a sentence for the operator."""


class ProtocolError(VhostfsError):
    """Raised when a front-end breaks the vhost-user protocol; it costs that connection and nothing else."""
