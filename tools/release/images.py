"""The images that tools/local-images has built, as files of a release, and as products of its OpenVEX document."""

import json
import platform
import shutil
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Final
from urllib.parse import quote

from tools.release.archives import pack, unpack
from tools.release.commands import ReleaseError
from tools.release.vulnerabilities import DISTRIBUTIONS, Product

IMAGES: Final = ("nmi", "mic", "podidctl", "demo")
BILL: Final = ".cdx.json"
ARCHIVE: Final = ".oci.tar"
ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}


def collect(images: Path, out: Path, epoch: int) -> tuple[list[Path], str]:
    """Write the images and their bills into *out* under the names of the release. Return them and the base's name.

    The archives of buildah contain the time at which they were written. They are packed again with the time *epoch*;
    the images in them, and so their digests, stay as they are. Raise ReleaseError if *images* has none that were built
    twice.
    """
    if not (images / "compared").exists():
        raise ReleaseError(f"{images} has no images that were built twice; run tools/local-images")
    architecture = ARCHITECTURES[platform.machine()]
    files = []
    for program in IMAGES:
        archive = out / f"{program}-{architecture}{ARCHIVE}"
        unpack(images / f"{program}.tar", out / program)
        pack(out / program, archive, epoch)
        shutil.rmtree(out / program)
        bill = out / f"{program}-{architecture}{BILL}"
        shutil.copyfile(images / "sbom" / f"{program}.cdx.json", bill)
        files += [archive, bill]
    return files, (images / "base").read_text().strip()


def products_of(artifacts: Iterable[Path]) -> list[Product]:
    """Return the images and the Python distributions among *artifacts*, sorted by package URL.

    The URL of an image has the digest in its archive, which is next to its bill. The distributions are one product,
    with a bill for each architecture.
    """
    products: dict[str, Product] = {}
    for path in artifacts:
        if not path.name.endswith(BILL):
            continue
        bill = json.loads(path.read_text())
        name = bill["metadata"]["component"]["name"].rpartition("/")[2]
        components = frozenset(component["purl"] for component in bill["components"] if "purl" in component)
        archive = path.with_name(path.name.removesuffix(BILL) + ARCHIVE)
        if archive.exists():
            url = f"pkg:oci/{name}@{quote(digest_of(archive), '')}"
            products[url] = Product(name, url, components)
        elif name == DISTRIBUTIONS:
            url = bill["metadata"]["component"]["purl"]
            former = products[url].components if url in products else ()
            products[url] = Product(name, url, components.union(former))
    return [products[url] for url in sorted(products)]


def digest_of(archive: Path) -> str:
    """Return the digest of the only image in an OCI archive."""
    with tarfile.open(archive) as opened:
        index = opened.extractfile("index.json")
        if index is None:
            raise ReleaseError(f"{archive} has no file index.json; run tools/local-images")
        (image,) = json.load(index)["manifests"]
    return str(image["digest"])
