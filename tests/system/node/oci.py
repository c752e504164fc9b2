"""Images as OCI archives: a new image of one file, and an image with one more layer. No container engine is needed."""

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

_LAYER: Final = "application/vnd.oci.image.layer.v1.tar+gzip"
_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
_BLOBS: Final = "blobs/sha256/"

Blobs = dict[str, bytes]
"""The content of an archive by digest, without the prefix `sha256:`."""


def write_image(archive: Path, name: str, files: Mapping[str, bytes], entrypoint: str, architecture: str) -> None:
    """Write *archive* with an image of executable *files* in the root directory. Its user has no rights."""
    config = {
        "architecture": architecture,
        "os": "linux",
        "config": {"Entrypoint": [entrypoint], "User": "65535:65535"},
        "rootfs": {"type": "layers", "diff_ids": []},
        "history": [],
    }
    blobs: Blobs = {}
    _write(archive, name, blobs, *_extended(blobs, config, [], files, mode=0o755))


def add_layer(
    source: Path, archive: Path, name: str, files: Mapping[str, bytes], environment: Mapping[str, str]
) -> None:
    """Write *archive* with the image in *source*, *files* as its last layer, and *environment* added to its own.

    Raise ValueError if *source* has not exactly one image.
    """
    blobs, index = _read(source)
    (manifest,) = (json.loads(blobs[_hex(each["digest"])]) for each in index["manifests"])
    config = json.loads(blobs[_hex(manifest["config"]["digest"])])
    variables = dict(each.split("=", 1) for each in config["config"].get("Env", ()))
    config["config"]["Env"] = [f"{key}={value}" for key, value in ({**variables, **environment}).items()]
    _write(archive, name, blobs, *_extended(blobs, config, manifest["layers"], files, mode=0o644))


def replace_program(source: Path, archive: Path, name: str, program: str, content: bytes) -> None:
    """Write *archive* with the image in *source* whose only command is the executable *content* at `/PROGRAM`.

    User and environment stay. Raise ValueError if *source* has not exactly one image.
    """
    blobs, index = _read(source)
    (manifest,) = (json.loads(blobs[_hex(each["digest"])]) for each in index["manifests"])
    config = json.loads(blobs[_hex(manifest["config"]["digest"])])
    config["config"] = {**config["config"], "Entrypoint": [f"/{program}"], "Cmd": []}
    _write(archive, name, blobs, *_extended(blobs, config, manifest["layers"], {program: content}, mode=0o755))


def read_labels(archive: Path) -> dict[str, str]:
    """Return the labels of the image in *archive*."""
    blobs, index = _read(archive)
    manifest = json.loads(blobs[_hex(index["manifests"][0]["digest"])])
    config = json.loads(blobs[_hex(manifest["config"]["digest"])])
    return dict(config["config"].get("Labels") or {})


def read_file(archive: Path, path: str) -> bytes:
    """Return the content of a regular file of the image in *archive*. Raise KeyError if the image has none."""
    blobs, index = _read(archive)
    manifest = json.loads(blobs[_hex(index["manifests"][0]["digest"])])
    for layer in reversed(manifest["layers"]):
        with tarfile.open(fileobj=io.BytesIO(blobs[_hex(layer["digest"])])) as tar:
            for member in tar:
                if member.name.removeprefix("./") == path and member.isfile():
                    file = tar.extractfile(member)
                    assert file is not None
                    return file.read()
    raise KeyError(path)


def _extended(
    blobs: Blobs, config: dict[str, Any], layers: list[dict[str, Any]], files: Mapping[str, bytes], *, mode: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Add a layer of *files* to *blobs*. Return configuration and list of layers with it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path, content in files.items():
            member = tarfile.TarInfo(path.lstrip("/"))
            member.size, member.mode = len(content), mode
            tar.addfile(member, io.BytesIO(content))
    content = buffer.getvalue()
    difference = f"sha256:{hashlib.sha256(content).hexdigest()}"
    rootfs = {**config["rootfs"], "diff_ids": [*config["rootfs"]["diff_ids"], difference]}
    history = [*config.get("history", ()), {"created_by": "tests/system/node"}]
    layer = _add(blobs, gzip.compress(content, mtime=0), _LAYER)
    return {**config, "rootfs": rootfs, "history": history}, [*layers, layer]


def _write(archive: Path, name: str, blobs: Blobs, config: dict[str, Any], layers: list[dict[str, Any]]) -> None:
    configuration = _add(blobs, json.dumps(config).encode(), _CONFIG)
    manifest = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST,
        "config": configuration,
        "layers": layers,
    }
    entry = _add(blobs, json.dumps(manifest).encode(), _MANIFEST)
    # containerd reads the first annotation as the name of the image, others the second.
    entry["annotations"] = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name}
    needed = [entry, configuration, *layers]
    with tarfile.open(archive, "w") as tar:
        _add_file(tar, "oci-layout", json.dumps({"imageLayoutVersion": "1.0.0"}).encode())
        _add_file(tar, "index.json", json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode())
        for digest in dict.fromkeys(_hex(each["digest"]) for each in needed):
            _add_file(tar, _BLOBS + digest, blobs[digest])


def _read(archive: Path) -> tuple[Blobs, dict[str, Any]]:
    blobs: Blobs = {}
    index: dict[str, Any] = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            file = tar.extractfile(member) if member.isfile() else None
            if file is None:
                continue
            if member.name == "index.json":
                index = json.load(file)
            elif member.name.startswith(_BLOBS):
                blobs[member.name.removeprefix(_BLOBS)] = file.read()
    return blobs, index


def _add(blobs: Blobs, content: bytes, media_type: str) -> dict[str, Any]:
    digest = hashlib.sha256(content).hexdigest()
    blobs[digest] = content
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}


def _add_file(tar: tarfile.TarFile, path: str, content: bytes) -> None:
    member = tarfile.TarInfo(path)
    member.size, member.mode = len(content), 0o644
    tar.addfile(member, io.BytesIO(content))


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")
