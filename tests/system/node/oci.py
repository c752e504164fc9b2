"""Images as OCI archives: a new image, and an image with more layers. No container engine is needed."""

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Self

_LAYER: Final = "application/vnd.oci.image.layer.v1.tar+gzip"
_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
_BLOBS: Final = "blobs/sha256/"


class Image:
    """An image of this *architecture* without files, whose user has no rights. `settings` are those of a container."""

    def __init__(self, architecture: str) -> None:
        self.settings: dict[str, Any] = {"User": "65535:65535"}
        self._config: dict[str, Any] = {
            "architecture": architecture,
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": []},
            "history": [],
        }
        self._layers: list[dict[str, Any]] = []
        self._blobs: dict[str, bytes] = {}
        """Content by digest."""

    @classmethod
    def read(cls, archive: Path) -> Self:
        """Return the image in *archive*. Raise ValueError if it has not exactly one."""
        files = {}
        with tarfile.open(archive) as tar:
            for member in tar:
                if (file := tar.extractfile(member)) is not None:
                    files[member.name] = file.read()
        image = cls("")
        image._blobs = {f"sha256:{name[len(_BLOBS) :]}": files[name] for name in files if name.startswith(_BLOBS)}
        (entry,) = json.loads(files["index.json"])["manifests"]
        manifest = json.loads(image._blobs[entry["digest"]])
        image._config = {"history": [], **json.loads(image._blobs[manifest["config"]["digest"]])}
        image.settings = image._config["config"]
        image._layers = manifest["layers"]
        return image

    def file(self, path: str) -> bytes:
        """Return the content of a regular file. Raise KeyError if the image has none."""
        for layer in reversed(self._layers):
            with tarfile.open(fileobj=io.BytesIO(self._blobs[layer["digest"]])) as tar:
                for member in tar:
                    if member.name.removeprefix("./") == path and member.isfile():
                        file = tar.extractfile(member)
                        assert file is not None
                        return file.read()
        raise KeyError(path)

    def add(self, files: Mapping[str, bytes], *, mode: int = 0o644) -> None:
        """Add a layer."""
        layer = _archived(files, mode)
        self._config["rootfs"]["diff_ids"].append(f"sha256:{hashlib.sha256(layer).hexdigest()}")
        self._config["history"].append({"created_by": "tests/system/node"})
        self._layers.append(self._add_blob(gzip.compress(layer, mtime=0), _LAYER))

    def write(self, archive: Path, name: str) -> None:
        """Write *archive* with the image under this *name*."""
        config = self._add_blob(json.dumps({**self._config, "config": self.settings}).encode(), _CONFIG)
        manifest = {"schemaVersion": 2, "mediaType": _MANIFEST, "config": config, "layers": self._layers}
        entry = self._add_blob(json.dumps(manifest).encode(), _MANIFEST)
        # containerd reads the first annotation as the name of the image, others the second.
        entry["annotations"] = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name}
        files = {
            "oci-layout": json.dumps({"imageLayoutVersion": "1.0.0"}).encode(),
            "index.json": json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode(),
        }
        for digest in (entry["digest"], config["digest"], *(layer["digest"] for layer in self._layers)):
            files[_BLOBS + digest.removeprefix("sha256:")] = self._blobs[digest]
        archive.write_bytes(_archived(files, 0o644))

    def _add_blob(self, content: bytes, media_type: str) -> dict[str, Any]:
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        self._blobs[digest] = content
        return {"mediaType": media_type, "digest": digest, "size": len(content)}


def commit_of(archive: Path) -> str:
    """Return the abbreviated commit of the sources of an image of `tools/local-images`."""
    labels = Image.read(archive).settings.get("Labels") or {}
    return str(labels.get("org.opencontainers.image.revision", "unknown"))[:7]


def _archived(files: Mapping[str, bytes], mode: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path, content in files.items():
            member = tarfile.TarInfo(path)
            member.size, member.mode = len(content), mode
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()
