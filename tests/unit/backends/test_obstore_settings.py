"""Buckets of Google's and Azure's are named in a configuration, and asked for when they are used."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest

from vhostfs.backends.obstore.settings import AzureSettings, GcsSettings, ObstoreSettings
from vhostfs.backends.s3 import S3Settings
from vhostfs.backends.s3.filesystem import S3Filesystem
from vhostfs.config import schema
from vhostfs.config.model import FilesystemSettings
from vhostfs.errors import ConfigurationError

MOUNT = "devices: [{{tag: t, socket: {{path: /tmp/s}}, mounts: {{/: {{{}}}}}}}]"


@pytest.mark.parametrize(
    "keys",
    [
        "type: gcs, bucket: data, anonymous: true, prefix: a/b",
        "type: azure, account: me, container: data, anonymous: true, metadata: none, cache: strict, uid: 5",
    ],
)
def test_a_bucket_is_opened_without_asking_for_it(tmp_path: Path, keys: str) -> None:
    file = tmp_path / "vhostfs.yaml"
    file.write_text(MOUNT.format(keys))
    [device] = schema.load(file).devices
    mount = device.mounts[PurePosixPath("/")]
    assert isinstance(mount, FilesystemSettings)
    assert isinstance(mount.backend, ObstoreSettings)
    filesystem = mount.backend.open()
    assert isinstance(filesystem, S3Filesystem)
    filesystem.close()


@pytest.mark.parametrize("kind", ["gcs", "azure"])
def test_what_is_no_key_is_refused_by_a_sentence(tmp_path: Path, kind: str) -> None:
    (tmp_path / "secret").write_text("not a key!")
    secret = PurePosixPath(tmp_path / "secret")
    settings = (
        GcsSettings(bucket="data", service_account_file=secret)
        if kind == "gcs"
        else AzureSettings(account="me", container="data", access_key_file=secret)
    )
    with pytest.raises(ConfigurationError):
        settings.open()


def test_a_prefix_that_no_key_can_have_is_refused() -> None:
    with pytest.raises(ValueError, match="prefix"):
        GcsSettings(bucket="data", prefix="/a")


def test_buckets_of_all_kinds_share_the_memory_of_the_daemon() -> None:
    memory = S3Settings("data").shared_memory()
    assert GcsSettings(bucket="data").shared_memory() is memory
    assert AzureSettings(account="me", container="data").shared_memory() is memory
