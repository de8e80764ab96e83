"""Credentials are found where AWS programs find them, and fetched again before they expire."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from vhostfs.backends.s3.client.credentials import (
    BotocoreSource,
    ContainerSource,
    EnvironmentSource,
    InstanceSource,
    Keychain,
    ProfileSource,
    WebIdentitySource,
    usual_sources,
)
from vhostfs.backends.s3.client.signing import Credentials
from vhostfs.backends.s3.store import BrokenAnswerError, DeniedError

pytestmark = pytest.mark.anyio

FOUND = {
    "AccessKeyId": "AKID",
    "SecretAccessKey": "secret",
    "Token": "token",
    "Expiration": "2030-01-01T00:00:00Z",
}
EXPECTED = Credentials("AKID", "secret", "token", 1_893_456_000.0)

type Replies = Callable[[str, str, dict[str, str], str], tuple[int, str]]


@asynccontextmanager
async def _metadata_server(replies: Replies) -> AsyncIterator[str]:
    """Let a server answer each request by what a function says of method, path, headers and body."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        method, path, _ = head[0].split(" ")
        headers = {
            name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)
        }
        body = (await reader.readexactly(int(headers.get("content-length", "0")))).decode()
        status, text = replies(method, path, headers, body)
        writer.write(f"HTTP/1.1 {status} X\r\ncontent-length: {len(text)}\r\n\r\n{text}".encode())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await server.wait_closed()


async def test_the_environment_has_keys() -> None:
    """With or without a token."""
    environment = {"AWS_ACCESS_KEY_ID": "AKID", "AWS_SECRET_ACCESS_KEY": "secret"}
    assert await EnvironmentSource(environment).fetch() == Credentials("AKID", "secret")
    assert await EnvironmentSource({**environment, "AWS_SESSION_TOKEN": "t"}).fetch() == Credentials(
        "AKID", "secret", "t"
    )
    assert await EnvironmentSource({}).fetch() is None


async def test_a_profile_is_read_again_though_its_path_is_hidden(tmp_path: Path) -> None:
    """Through the directory, as behind a sandbox, and when the file was replaced."""
    home = tmp_path / "home"
    (home / ".aws").mkdir(parents=True)
    file = home / ".aws/credentials"
    keys = "[{}]\naws_access_key_id = {}\naws_secret_access_key = {}\n"
    file.write_text(keys.format("default", "A", "a") + keys.format("two", "B", "b"))
    (home / ".aws/config").write_text("[profile two]\nregion = eu-west-1\n")
    source = ProfileSource({"HOME": str(home)}, None)
    two = ProfileSource({"HOME": str(home)}, "two")
    assert two.region() == "eu-west-1"
    home.rename(tmp_path / "hidden")
    assert await source.fetch() == Credentials("A", "a")
    assert await two.fetch() == Credentials("B", "b")
    moved = tmp_path / "hidden/.aws/credentials"
    moved.with_name("new").write_text(keys.format("default", "C", "c"))
    moved.with_name("new").rename(moved)
    assert await source.fetch() == Credentials("C", "c")
    with pytest.raises(DeniedError):
        await two.fetch()


async def test_an_instance_is_asked_with_a_token() -> None:
    """The second version of the protocol, and no other."""

    def replies(method: str, path: str, headers: dict[str, str], _body: str) -> tuple[int, str]:
        if (method, path) == ("PUT", "/latest/api/token"):
            return 200, "the-token"
        if headers.get("x-aws-ec2-metadata-token") != "the-token":
            return 401, ""
        base = "/latest/meta-data/iam/security-credentials/"
        return {base: (200, "role\n"), f"{base}role": (200, json.dumps(FOUND))}.get(path, (404, ""))

    async with _metadata_server(replies) as url:
        assert await InstanceSource(url).fetch() == EXPECTED
    async with _metadata_server(lambda *_: (403, "")) as url:
        assert await InstanceSource(url).fetch() is None
    assert await InstanceSource("http://127.0.0.1:1").fetch() is None


async def test_a_container_is_asked_with_its_token(tmp_path: Path) -> None:
    """Which is read from its file each time."""
    token = tmp_path / "token"
    token.write_text("one\n")
    seen = []

    def replies(_method: str, path: str, headers: dict[str, str], _body: str) -> tuple[int, str]:
        seen.append((path, headers["authorization"]))
        return 200, json.dumps(FOUND)

    async with _metadata_server(replies) as url:
        source = ContainerSource(
            {
                "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{url}/creds?x=1",
                "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": str(token),
            }
        )
        assert await source.fetch() == EXPECTED
        token.write_text("two")
        await source.fetch()
    assert seen == [("/creds?x=1", "one"), ("/creds?x=1", "two")]


async def test_a_token_is_not_told_to_anyone() -> None:
    """Without TLS only to the container's own host."""
    with pytest.raises(DeniedError):
        ContainerSource({"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://evil.example/creds"})


async def test_a_web_identity_is_exchanged_for_keys(tmp_path: Path) -> None:
    """By the Security Token Service."""
    (tmp_path / "jwt").write_text("the.jwt")
    fields = "".join(
        f"<{name}>{value}</{name}>"
        for name, value in {
            "AccessKeyId": "AKID",
            "SecretAccessKey": "secret",
            "SessionToken": "token",
            "Expiration": "2030-01-01T00:00:00Z",
        }.items()
    )
    wrapped = f"<R xmlns='urn:x'><Result><Credentials>{fields}</Credentials></Result></R>"

    def replies(_method: str, _path: str, _headers: dict[str, str], body: str) -> tuple[int, str]:
        fine = "WebIdentityToken=the.jwt" in body and "Action=AssumeRoleWithWebIdentity" in body
        return (200, wrapped) if fine else (400, "")

    async with _metadata_server(replies) as url:
        environment = {
            "AWS_ROLE_ARN": "arn:role",
            "AWS_WEB_IDENTITY_TOKEN_FILE": str(tmp_path / "jwt"),
            "AWS_ENDPOINT_URL_STS": url,
        }
        assert await WebIdentitySource(environment, "us-east-1").fetch() == EXPECTED


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"AccessKeyId": "a"}', '{"Expiration": 5}'])
async def test_an_answer_without_keys_is_refused(text: str) -> None:
    """Whatever it is."""
    async with _metadata_server(lambda *_: (200, text)) as url:
        with pytest.raises(BrokenAnswerError):
            await ContainerSource({"AWS_CONTAINER_CREDENTIALS_FULL_URI": url}).fetch()


class _Expiring:
    """Credentials that hold for a while, fetched as often as is asked."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.fetched = 0
        self.failing = False

    async def fetch(self) -> Credentials:
        self.fetched += 1
        await asyncio.sleep(0)
        if self.failing:
            raise DeniedError("not now")
        return Credentials(f"key-{self.fetched}", "secret", "token", time.time() + self.seconds)


async def test_many_requests_fetch_credentials_once() -> None:
    """And those that hold are not fetched again."""
    source = _Expiring(3600)
    keychain = Keychain([source])
    found = await asyncio.gather(*(keychain.credentials() for _ in range(20)))
    assert {each.access_key for each in found} == {"key-1"}
    assert (await keychain.credentials()).access_key == "key-1"
    assert source.fetched == 1


async def test_requests_go_on_while_credentials_are_fetched_again() -> None:
    """As long as the old ones hold, also when that fails."""
    source = _Expiring(300)
    keychain = Keychain([source])
    assert (await keychain.credentials()).access_key == "key-1"
    source.failing = True
    assert (await keychain.credentials()).access_key == "key-1"
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert source.fetched == 2
    assert (await keychain.credentials()).access_key == "key-1"
    keychain.close()


async def test_without_credentials_there_is_a_sentence() -> None:
    """And the sources are not asked again for each request."""
    source = _Expiring(1)
    source.failing = True
    keychain = Keychain([source, EnvironmentSource({})])
    for _ in range(3):
        with pytest.raises(DeniedError, match="not now"):
            await keychain.credentials()
    assert source.fetched == 1


async def test_the_usual_places_are_asked_in_order(tmp_path: Path) -> None:
    """A named profile is the only place, when it is named."""
    environment = {"HOME": str(tmp_path), "AWS_ACCESS_KEY_ID": "A", "AWS_SECRET_ACCESS_KEY": "a"}
    kinds = [type(source) for source in usual_sources(environment, "us-east-1")]
    assert kinds == [EnvironmentSource, ProfileSource, InstanceSource]
    assert [type(source) for source in usual_sources(environment, "us-east-1", "two")] == [ProfileSource]
    disabled = {**environment, "AWS_EC2_METADATA_DISABLED": "true"}
    assert [type(source) for source in usual_sources(disabled, "us-east-1")] == [
        EnvironmentSource,
        ProfileSource,
    ]


async def test_botocore_finds_what_it_finds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Here: a program that prints keys."""
    program = tmp_path / "keys"
    program.write_text(
        "#!/bin/sh\necho '" + json.dumps({"Version": 1, "AccessKeyId": "P", "SecretAccessKey": "p"}) + "'\n"
    )
    program.chmod(0o755)
    (tmp_path / "config").write_text(f"[profile by-program]\ncredential_process = {program}\n")
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    assert await BotocoreSource("by-program").fetch() == Credentials("P", "p")
