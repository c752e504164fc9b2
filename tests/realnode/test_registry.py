"""The read-only registry gives complete images, and counts their bytes."""

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from tests.realnode import oci
from tests.realnode.oci import Image
from tests.realnode.registry import Registry


@pytest.fixture
def image(tmp_path: Path) -> Image:
    oci.write_image(tmp_path / "a.tar", "localhost/a:1", {"run": b"program" * 300_000}, "/run", "amd64")
    return oci.read_image(tmp_path / "a.tar")


@pytest.fixture
def registry(image: Image) -> Registry:
    return Registry({"team/a:1": image})


@pytest.fixture
async def client(registry: Registry) -> AsyncIterator[aiohttp.ClientSession]:
    port = await registry.start("127.0.0.1", 0)
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}/v2/") as session:
        yield session
    await registry.stop()


async def test_an_image_is_complete_from_its_tag_on(
    client: aiohttp.ClientSession, registry: Registry, image: Image
) -> None:
    # containerd adds the query if the registry is a mirror.
    async with client.get("team/a/manifests/1", params={"ns": "localhost"}) as response:
        assert response.content_type == "application/vnd.oci.image.manifest.v1+json"
        assert response.headers["Docker-Content-Digest"] == image.digest
        manifest = await response.json(content_type=None)
    for each in (manifest["config"], *manifest["layers"]):
        async with client.get(f"team/a/blobs/{each['digest']}") as response:
            content = await response.read()
        assert f"sha256:{hashlib.sha256(content).hexdigest()}" == each["digest"]
        assert len(content) == each["size"]
    assert {each.digest: each.size for each in registry.sent} == {
        digest: len(content) for digest, content in image.content.items()
    }
