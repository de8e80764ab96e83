"""Who we are: where AWS programs find their keys, asked in the order in which they ask.

Given keys, the environment, a web identity (as in Kubernetes), the shared files with a profile, the
container's endpoint (ECS, EKS Pod Identity), the instance's (EC2, IMDSv2). What expires is fetched again
before it does, by one task however many requests wait, and beside them as long as the old ones hold. With
botocore (`vhostfs[aws]`) its resolver takes the place of all these, for what only it knows: SSO, assumed
roles, programs.

Files are found when a source is made and read again through their directory's descriptor, because a sandbox
may have hidden them by the time when they are read again.
"""

from __future__ import annotations

import asyncio
import configparser
import contextlib
import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from vhostfs.backends.s3.client import documents
from vhostfs.backends.s3.client.connection import Request, Response
from vhostfs.backends.s3.client.endpoint import tls_context
from vhostfs.backends.s3.client.pool import Pool, PoolOptions
from vhostfs.backends.s3.client.signing import Credentials, encoded_query
from vhostfs.backends.s3.store import BrokenAnswerError, DeniedError, StoreError

logger = logging.getLogger(__name__)

ADVISED_SECONDS: Final = 600.0
"""How long before they expire credentials are fetched again, beside the requests."""

NEEDED_SECONDS: Final = 60.0
"""How long before they expire requests wait for new ones."""

RETRY_SECONDS: Final = 5.0
"""How long a failure is the answer before the sources are asked again."""

INSTANCE: Final = "http://169.254.169.254"
CONTAINER: Final = "http://169.254.170.2"
CONTAINER_HOSTS: Final = frozenset(
    ("169.254.170.2", "169.254.170.23", "localhost", "127.0.0.1", "::1", "fd00:ec2::23")
)
"""Who may be told the container's token without TLS."""

FILE_MAXIMUM: Final = 1 << 20
METADATA_OPTIONS: Final = PoolOptions(limit=2, connect_seconds=1.0, stall_seconds=3.0)


class Source(Protocol):
    """A place where credentials may be."""

    async def fetch(self) -> Credentials | None:
        """Return credentials, or None where this place has none; StoreError or OSError where it fails."""


class WatchedFile:
    """A file that may be replaced meanwhile: it is read through its directory, which stays open."""

    def __init__(self, path: Path) -> None:
        """Open the directory; raise OSError."""
        self._name = path.name
        self._directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def read(self) -> str:
        """Return what the file holds; raise OSError."""
        descriptor = os.open(self._name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._directory)
        with os.fdopen(descriptor, encoding="utf-8") as file:
            return file.read(FILE_MAXIMUM)


@dataclass(frozen=True, slots=True)
class GivenSource:
    """Keys that are known: from the configuration."""

    credentials: Credentials

    async def fetch(self) -> Credentials | None:
        """Return them."""
        return self.credentials


@dataclass(frozen=True, slots=True)
class EnvironmentSource:
    """AWS_ACCESS_KEY_ID and its companions."""

    environment: Mapping[str, str] = field(repr=False)

    async def fetch(self) -> Credentials | None:
        """Return them, if they are set."""
        key = self.environment.get("AWS_ACCESS_KEY_ID")
        secret = self.environment.get("AWS_SECRET_ACCESS_KEY")
        if not key or not secret:
            return None
        return Credentials(key, secret, self.environment.get("AWS_SESSION_TOKEN") or None)


class ProfileSource:
    """The shared files, ~/.aws/credentials and ~/.aws/config, and a profile in them."""

    def __init__(self, environment: Mapping[str, str], profile: str | None) -> None:
        """Open the directories of those that are there."""
        home = Path(environment.get("HOME") or "/root")
        self._profile = profile or environment.get("AWS_PROFILE") or "default"
        self._demanded = profile is not None
        shared = Path(environment.get("AWS_SHARED_CREDENTIALS_FILE") or home / ".aws/credentials")
        config = Path(environment.get("AWS_CONFIG_FILE") or home / ".aws/config")
        self._files: list[tuple[WatchedFile, str]] = []
        for path, prefix in ((shared, ""), (config, "profile ")):
            with contextlib.suppress(OSError):
                self._files.append((WatchedFile(path), prefix))

    async def fetch(self) -> Credentials | None:
        """Return the profile's keys."""
        for file, prefix in self._files:
            section = self._section(file, prefix)
            key, secret = section.get("aws_access_key_id"), section.get("aws_secret_access_key")
            if key and secret:
                return Credentials(key, secret, section.get("aws_session_token"))
        if self._demanded:
            raise DeniedError(f"the profile {self._profile} has no keys in the shared files")
        return None

    def region(self) -> str | None:
        """Return the profile's region."""
        return next(
            filter(None, (self._section(file, prefix).get("region") for file, prefix in self._files)), None
        )

    def _section(self, file: WatchedFile, prefix: str) -> Mapping[str, str]:
        parser = configparser.RawConfigParser(strict=False)
        try:
            parser.read_string(file.read())
        except (OSError, ValueError, configparser.Error):
            return {}
        names = (f"{prefix}{self._profile}", self._profile)
        return next((dict(parser[name]) for name in names if parser.has_section(name)), {})


class WebIdentitySource:
    """A token in a file, which the Security Token Service exchanges for a role's keys."""

    def __init__(self, environment: Mapping[str, str], region: str) -> None:
        """Open the token's directory; raise OSError."""
        self._role = environment["AWS_ROLE_ARN"]
        self._session = environment.get("AWS_ROLE_SESSION_NAME") or "vhostfs"
        self._token = WatchedFile(Path(environment["AWS_WEB_IDENTITY_TOKEN_FILE"]))
        self._url = environment.get("AWS_ENDPOINT_URL_STS") or f"https://sts.{region}.amazonaws.com"

    async def fetch(self) -> Credentials | None:
        """Exchange the token."""
        query = encoded_query(
            (
                ("Action", "AssumeRoleWithWebIdentity"),
                ("Version", "2011-06-15"),
                ("RoleArn", self._role),
                ("RoleSessionName", self._session),
                ("WebIdentityToken", self._token.read().strip()),
            )
        )
        response = await ask(
            "POST", self._url, {"content-type": "application/x-www-form-urlencoded"}, query.encode()
        )
        if response.status != 200:
            raise DeniedError(f"the role {self._role}: {documents.refusal(bytes(response.body)).message}")
        found = documents.session(bytes(response.body))
        try:
            expires = documents.instant(found["Expiration"]) / 1e9
            return Credentials(found["AccessKeyId"], found["SecretAccessKey"], found["SessionToken"], expires)
        except KeyError:
            raise BrokenAnswerError("the Security Token Service answers without keys") from None


class ContainerSource:
    """What the container's host offers: ECS, EKS Pod Identity."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Find out where; raise OSError, and DeniedError where a token would go out in the clear."""
        relative = environment.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")
        self._url = (
            f"{CONTAINER}{relative}" if relative else environment["AWS_CONTAINER_CREDENTIALS_FULL_URI"]
        )
        parts = urlsplit(self._url)
        if parts.scheme != "https" and parts.hostname not in CONTAINER_HOSTS:
            raise DeniedError(f"{parts.hostname} is no host to be asked for credentials without TLS")
        self._token = environment.get("AWS_CONTAINER_AUTHORIZATION_TOKEN")
        file = environment.get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")
        self._token_file = WatchedFile(Path(file)) if file else None

    async def fetch(self) -> Credentials | None:
        """Ask for them."""
        token = self._token_file.read().strip() if self._token_file is not None else self._token
        response = await ask("GET", self._url, {"authorization": token} if token else {})
        return _from_json(response, "the container's host")


@dataclass(frozen=True, slots=True)
class InstanceSource:
    """What an EC2 instance offers, by the second version of its protocol."""

    url: str = INSTANCE

    async def fetch(self) -> Credentials | None:
        """Ask for the instance's role; None where this is no instance, or one without a role."""
        try:
            token = await ask(
                "PUT", f"{self.url}/latest/api/token", {"x-aws-ec2-metadata-token-ttl-seconds": "300"}
            )
        except (StoreError, OSError):
            return None
        if token.status != 200:
            return None
        headers = {"x-aws-ec2-metadata-token": token.body.decode("latin-1").strip()}
        base = f"{self.url}/latest/meta-data/iam/security-credentials/"
        roles = await ask("GET", base, headers)
        if roles.status != 200 or not roles.body.strip():
            return None
        role = roles.body.decode("latin-1").split("\n")[0].strip()
        return _from_json(await ask("GET", base + role, headers), "the instance's metadata service")


class BotocoreSource:
    """Whatever botocore finds, on a thread of its own."""

    def __init__(self, profile: str | None) -> None:
        """Import botocore; raise ImportError where it is not installed."""
        import botocore.session  # noqa: PLC0415 - an extra, which is slow to import

        self._session: Any = botocore.session.Session(profile=profile)

    async def fetch(self) -> Credentials | None:
        """Let it look, and fetch again what is about to expire."""
        return await asyncio.to_thread(self._fetch)

    def _fetch(self) -> Credentials | None:
        found = self._session.get_credentials()
        if found is None:
            return None
        frozen = found.get_frozen_credentials()
        expiry = getattr(found, "_expiry_time", None)
        expires = expiry.timestamp() if expiry is not None else None
        return Credentials(frozen.access_key, frozen.secret_key, frozen.token, expires)


@dataclass(slots=True)
class Keychain:
    """The credentials of a client, from the first source that has some. For one event loop."""

    sources: Sequence[Source]
    _current: Credentials | None = None
    _task: asyncio.Task[Credentials] | None = None
    _failure: tuple[float, StoreError] | None = field(default=None)

    async def credentials(self, now: float | None = None) -> Credentials:
        """Return credentials that hold for a while; DeniedError where there are none."""
        current = self._current
        if current is not None and current.expires is None:
            return current
        left = current.expires - (time.time() if now is None else now) if current and current.expires else 0.0
        if current is not None and left > ADVISED_SECONDS:
            return current
        if self._failure is not None and time.monotonic() - self._failure[0] < RETRY_SECONDS:
            if current is not None and left > 0:
                return current
            raise self._failure[1]
        if self._task is None:
            self._task = asyncio.create_task(self._fetch())
            self._task.add_done_callback(self._fetched)
        if current is not None and left > NEEDED_SECONDS:
            return current
        return await asyncio.shield(self._task)

    def renew(self, refused: Credentials) -> bool:
        """Forget credentials that the store calls expired; False where they are all there is."""
        if self._current is refused:
            self._current = None
        return refused.session_token is not None or self._current is not None

    def close(self) -> None:
        """Stop fetching."""
        if self._task is not None:
            self._task.cancel()

    async def _fetch(self) -> Credentials:
        failures = []
        for source in self.sources:
            try:
                found = await source.fetch()
            except (StoreError, OSError) as error:
                failures.append(error.strerror or str(error))
                continue
            if found is not None:
                return found
        raise DeniedError(
            "; ".join(failures) or "there are no credentials: none are given, and none were found"
        )

    def _fetched(self, task: asyncio.Task[Credentials]) -> None:
        self._task = None
        if task.cancelled():
            return
        error = task.exception()
        if isinstance(error, StoreError):
            self._failure = (time.monotonic(), error)
            logger.debug("%s", error.strerror)
        elif error is None:
            self._current, self._failure = task.result(), None


async def ask(method: str, url: str, headers: Mapping[str, str], body: bytes = b"") -> Response:
    """Ask a metadata service once; raise StoreError."""
    parts = urlsplit(url)
    tls = tls_context(None) if parts.scheme == "https" else None
    pool = Pool(parts.hostname or "", parts.port or (443 if tls else 80), tls, METADATA_OPTIONS)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    request = Request(method, target, {"host": parts.netloc, **headers}, (body,) if body else ())
    try:
        async with pool.connection() as connection:
            return await connection.exchange(request)
    finally:
        pool.close()


def _from_json(response: Response, who: str) -> Credentials:
    """Return the credentials that a metadata service answers."""
    if response.status != 200:
        raise DeniedError(f"{who} answers HTTP status {response.status}")
    try:
        found = json.loads(response.body)
        expires = documents.instant(found["Expiration"]) / 1e9 if found.get("Expiration") else None
        return Credentials(
            str(found["AccessKeyId"]), str(found["SecretAccessKey"]), found.get("Token"), expires
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        raise BrokenAnswerError(f"{who} answers without keys") from None


def usual_sources(environment: Mapping[str, str], region: str, profile: str | None = None) -> list[Source]:
    """Return the places where AWS programs look, in their order; raise OSError, DeniedError."""
    sources: list[Source] = []
    if profile is None:
        sources.append(EnvironmentSource(environment))
        if environment.get("AWS_ROLE_ARN") and environment.get("AWS_WEB_IDENTITY_TOKEN_FILE"):
            sources.append(WebIdentitySource(environment, region))
    sources.append(ProfileSource(environment, profile))
    if profile is not None:
        return sources
    names = ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI")
    if any(environment.get(name) for name in names):
        sources.append(ContainerSource(environment))
    elif environment.get("AWS_EC2_METADATA_DISABLED", "").lower() != "true":
        sources.append(InstanceSource())
    return sources
