"""The artifacts of a release that have a bill of materials with packages, as the products of an OpenVEX document."""

import json
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Final
from urllib.parse import quote

from tools.release.commands import ReleaseError
from tools.release.vulnerabilities import DISTRIBUTIONS, Product

BILL: Final = ".cdx.json"
ARCHIVE: Final = ".oci.tar"


def products_of(artifacts: Iterable[Path]) -> list[Product]:
    """Return the images and the Python distributions among *artifacts*, sorted by package URL.

    The URL of an image has the digest in its archive, which is next to its bill. The distributions are one product,
    with a bill for each architecture.
    """
    found: dict[str, Product] = {}
    for path in artifacts:
        if not path.name.endswith(BILL):
            continue
        bill = json.loads(path.read_text())
        name = bill["metadata"]["component"]["name"].rpartition("/")[2]
        components = frozenset(each["purl"] for each in bill["components"] if "purl" in each)
        archive = path.with_name(path.name.removesuffix(BILL) + ARCHIVE)
        if archive.exists():
            url = f"pkg:oci/{name}@{quote(digest_of(archive), '')}"
            found[url] = Product(name, url, components)
        elif name == DISTRIBUTIONS:
            url = bill["metadata"]["component"]["purl"]
            former = found[url].components if url in found else ()
            found[url] = Product(name, url, components.union(former))
    return [found[url] for url in sorted(found)]


def digest_of(archive: Path) -> str:
    """Return the digest of the only image in an OCI archive."""
    with tarfile.open(archive) as opened:
        index = opened.extractfile("index.json")
        if index is None:
            raise ReleaseError(f"{archive} has no file index.json; run tools/local-images")
        (image,) = json.load(index)["manifests"]
    return str(image["digest"])
