"""Images as OCI archives: with an added layer, and reproducible."""

import json
import tarfile
from pathlib import Path
from typing import Any

from tests.realnode import oci


def read(archive: Path) -> tuple[dict[str, Any], dict[str, Any], list[bytes]]:
    """Return the index entry, the configuration and the layers of an archive."""
    with tarfile.open(archive) as tar:

        def blob(digest: str) -> bytes:
            file = tar.extractfile(f"blobs/sha256/{digest.removeprefix('sha256:')}")
            assert file is not None
            return file.read()

        index = tar.extractfile("index.json")
        assert index is not None
        (entry,) = json.load(index)["manifests"]
        manifest = json.loads(blob(entry["digest"]))
        return (
            entry,
            json.loads(blob(manifest["config"]["digest"])),
            [blob(each["digest"]) for each in manifest["layers"]],
        )


def test_a_layer_is_added_to_an_image(tmp_path: Path) -> None:
    oci.write_image(tmp_path / "a.tar", "localhost/a:1", {"run": b"program"}, "/run", "amd64")
    oci.add_layer(tmp_path / "a.tar", tmp_path / "b.tar", "localhost/b:1", {"etc/x": b"y"}, {"NAME": "value=1"})
    entry, config, layers = read(tmp_path / "b.tar")
    assert entry["annotations"]["io.containerd.image.name"] == "localhost/b:1"
    assert len(layers) == len(config["rootfs"]["diff_ids"]) == len(config["history"]) == 2
    assert layers[0] == read(tmp_path / "a.tar")[2][0]
    assert oci.read_file(tmp_path / "b.tar", "etc/x") == b"y"
    assert config["config"] == {"Entrypoint": ["/run"], "User": "65535:65535", "Env": ["NAME=value=1"]}


def test_an_image_is_the_same_each_time(tmp_path: Path) -> None:
    for name in ("a.tar", "b.tar"):
        oci.write_image(tmp_path / name, "localhost/a:1", {"run": b"program"}, "/run", "amd64")
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
