"""What a client is told: which bucket, how to reach it, what to ask for with what is written."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

from vhostfs.backends.s3.client.endpoint import Addressing
from vhostfs.backends.s3.client.pool import PoolOptions
from vhostfs.backends.s3.client.retrying import RetryOptions
from vhostfs.backends.s3.store import Capabilities

CUSTOMER_KEY: Final = 32
"""Bytes of a key of the customer's (SSE-C)."""


class Encryption(StrEnum):
    """How the store encrypts what is written, beside what the bucket prescribes."""

    NONE = "none"
    S3 = "sse-s3"
    KMS = "sse-kms"
    CUSTOMER = "sse-c"


@dataclass(frozen=True, slots=True)
class ClientOptions:
    """A bucket, and how to ask for it."""

    bucket: str
    region: str = "us-east-1"
    url: str | None = None
    """Of a server that is not AWS."""
    addressing: Addressing = Addressing.AUTO
    authorities: Path | None = None
    anonymous: bool = False
    requester_pays: bool = False
    storage_class: str | None = None
    encryption: Encryption = Encryption.NONE
    kms_key: str | None = None
    customer_key: bytes | None = field(default=None, repr=False)
    hedge: bool = True
    capabilities: Capabilities = field(default_factory=Capabilities)
    pool: PoolOptions = field(default_factory=PoolOptions)
    retry: RetryOptions = field(default_factory=RetryOptions)
