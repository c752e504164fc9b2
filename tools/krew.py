"""The plugin for krew: its archive and its manifest, in build/krew.

usage: python -m tools.krew URL

URL is the address of the release's files, without a slash at its end; the manifest names URL/ARCHIVE. The archive
contains no times and owners, so that equal sources give equal archives.
"""

import argparse
import hashlib
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Final

from podidentity.version import VERSION
from tools.release.archives import pack

ROOT: Final = Path(__file__).parents[1]
FOLDER: Final = ROOT / "build" / "krew"
TEMPLATE: Final = ROOT / "deploy" / "krew" / "podidentity.yaml"
FILES: Final = (ROOT / "deploy" / "krew" / "kubectl-podidentity", ROOT / "LICENSE")


def archive() -> bytes:
    """Return a tar.gz of FILES."""
    with tempfile.TemporaryDirectory() as name:
        folder, packed = Path(name, "files"), Path(name, "packed.tar.gz")
        folder.mkdir()
        for file in FILES:
            shutil.copy2(file, folder)
        pack(folder, packed, epoch=0)
        return packed.read_bytes()


def manifest(url: str, name: str, digest: str) -> str:
    """Return the manifest for the archive *name* at *url*, whose SHA-256 is *digest*."""
    lines = TEMPLATE.read_text().splitlines(keepends=True)
    text = "".join(line for line in lines if not line.startswith("#"))
    values = {"VERSION": VERSION, "HOMEPAGE": url.partition("/releases/")[0], "URI": f"{url}/{name}", "SHA256": digest}
    for placeholder, value in values.items():
        text = text.replace(f" v{placeholder}\n", f" v{value}\n").replace(f": {placeholder}\n", f": {value}\n")
    return text


def main(arguments: list[str], folder: Path = FOLDER) -> int:
    """Write archive and manifest into *folder*. Return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.krew", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("url", help="address of the release's files")
    url: str = parser.parse_args(arguments).url
    if not url.startswith("https://") or url.endswith("/"):
        parser.error(f"{url!r} is no https address without a slash at its end")
    name = f"kubectl-podidentity-{VERSION}.tar.gz"
    content = archive()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    (folder / "podidentity.yaml").write_text(manifest(url, name, hashlib.sha256(content).hexdigest()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
