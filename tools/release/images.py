"""The images that tools/local-images has built, as files of a release."""

import platform
import shutil
from pathlib import Path
from typing import Final

from tools.release.archives import pack, unpack
from tools.release.commands import ReleaseError

IMAGES: Final = ("nmi", "mic", "podidctl", "demo")
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
    found = []
    for program in IMAGES:
        archive = out / f"{program}-{architecture}.oci.tar"
        unpack(images / f"{program}.tar", out / program)
        pack(out / program, archive, epoch)
        shutil.rmtree(out / program)
        bill = out / f"{program}-{architecture}.cdx.json"
        shutil.copyfile(images / "sbom" / f"{program}.cdx.json", bill)
        found += [archive, bill]
    return found, (images / "base").read_text().strip()
