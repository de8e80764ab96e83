"""Where a bucket is reached: URLs in path or virtual-host style, of AWS or of any server that speaks S3."""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from vhostfs.backends.s3.client.signing import encoded_path
from vhostfs.errors import ConfigurationError

BUCKET: Final = re.compile(
    r"[a-z0-9][a-z0-9.\-]{1,61}[a-z0-9]$|[A-Za-z0-9][A-Za-z0-9._\-]{1,253}[A-Za-z0-9]$"
)
HOST: Final = re.compile(r"[a-z0-9][a-z0-9\-]*[a-z0-9]$")


class Addressing(StrEnum):
    """How a bucket stands in a URL."""

    AUTO = "auto"
    """As the host's first label where that works: at AWS, for names that can be one."""
    PATH = "path"
    VIRTUAL = "virtual"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A bucket's server."""

    host: str
    """As it stands in the Host header, with the port where it is not the usual one."""
    name: str
    """To be resolved and to be found in the certificate."""
    port: int
    tls: bool
    prefix: str
    """Encoded; before each key."""
    bucket: str

    def path(self, key: str) -> str:
        """Return the encoded path of a key; of the bucket for an empty one."""
        return f"{self.prefix}{encoded_path(key)}" if key else (self.prefix.rstrip("/") or "/")

    def source(self, key: str) -> str:
        """Return a key as x-amz-copy-source names it."""
        return encoded_path(f"/{self.bucket}/{key}")


def endpoint(
    bucket: str, region: str, *, url: str | None = None, addressing: Addressing = Addressing.AUTO
) -> Endpoint:
    """Return where a bucket is: at AWS in a region, or at the server of a URL. ConfigurationError."""
    if not BUCKET.match(bucket):
        raise ConfigurationError(f"{bucket!r} is no name of a bucket")
    if url is None:
        suffix = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
        url = f"https://s3.{region}.{suffix}"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ConfigurationError(f"{url!r} is no URL of a server") from None
    if (
        parts.scheme not in {"http", "https"}
        or not parts.hostname
        or parts.username
        or parts.query
        or parts.fragment
    ):
        raise ConfigurationError(
            f"{url!r} is no URL of a server: http or https, a host, and perhaps a port and a path"
        )
    tls = parts.scheme == "https"
    at_aws = _is_aws_host(parts.hostname)
    fits = HOST.match(bucket) is not None or (not tls and bucket.islower())
    virtual = addressing is Addressing.VIRTUAL or (addressing is Addressing.AUTO and at_aws and fits)
    name = f"{bucket}.{parts.hostname}" if virtual else parts.hostname
    shown = f"[{name}]" if ":" in name else name
    usual = 443 if tls else 80
    host = shown if port in {None, usual} else f"{shown}:{port}"
    base = encoded_path(parts.path.rstrip("/"))
    prefix = f"{base}/" if virtual else f"{base}/{bucket}/"
    return Endpoint(host, name, port or usual, tls, prefix, bucket)


def is_aws(url: str | None) -> bool:
    """Tell whether the server of a URL, or of none, is AWS."""
    return url is None or _is_aws_host(urlsplit(url).hostname or "")


def _is_aws_host(host: str) -> bool:
    return host.endswith((".amazonaws.com", ".amazonaws.com.cn"))


def tls_context(authorities: Path | None) -> ssl.SSLContext:
    """Return the settings of TLS: the system's authorities, or those of a file. ConfigurationError."""
    try:
        return ssl.create_default_context(cafile=authorities)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"{authorities}: no certificates can be read: {error}") from None
