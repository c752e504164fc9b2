"""The plugin for krew: its archive and its manifest, in build/krew.

usage: python -m tools.krew URL

URL is the address of the release's files, without a slash at its end; the manifest names URL/ARCHIVE. The archive
contains no times and owners, so that equal sources give equal archives.
"""

import argparse
import gzip
import hashlib
import io
import sys
import tarfile
from pathlib import Path
from typing import Final

from podidentity.version import VERSION

ROOT: Final = Path(__file__).parents[1]
FOLDER: Final = ROOT / "build" / "krew"
TEMPLATE: Final = ROOT / "deploy" / "krew" / "podidentity.yaml"
FILES: Final = (ROOT / "deploy" / "krew" / "kubectl-podidentity", ROOT / "LICENSE")


def archive() -> bytes:
    """Return a tar.gz of FILES."""
    content = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=content, mode="wb", mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for file in FILES:
            entry = tarfile.TarInfo(file.name)
            entry.size = file.stat().st_size
            entry.mode = 0o755 if file.name.startswith("kubectl-") else 0o644
            with file.open("rb") as opened:
                tar.addfile(entry, opened)
    return content.getvalue()


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
