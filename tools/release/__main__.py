"""Build the artifacts of a release. The targets `release…` of the Makefile run these commands:

check     compare the versions of this tree, with --tag also with the tag and the changelog's date, and verify the
          statements about vulnerabilities
sources   build the source distribution, the chart, its bill of materials, and the release notes
wheels    build the wheels of that source distribution by cibuildwheel, and the bill of their dependencies
images    link the images that tools/local-images has built, and their bills, into the output folder
seal      write OpenVEX, provenance and checksums of all artifacts in the output folder
dry-run   do what needs no docker and no registry of images, twice, and compare
push-chart  push the chart to an OCI registry, and print its name and digest for GITHUB_OUTPUT
"""

import argparse
import os
import shutil
import sys
import sysconfig
from pathlib import Path
from typing import Final

from tools.release import chart, provenance, summary
from tools.release.commands import ReleaseError
from tools.release.dry_run import NOTES_FILE, SDIST, STATEMENT_FILE, VEX_FILE, Release, dry_run
from tools.release.images import collect

ROOT: Final = Path(__file__).parents[2]
COMMANDS: Final = ("check", "sources", "wheels", "images", "seal", "dry-run", "push-chart")
OUT: Final = ROOT / "build" / "release"


def main() -> int:
    """Run the command of sys.argv and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.release", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=list(COMMANDS))
    parser.add_argument("--tag", default="", help="tag of the release")
    parser.add_argument("--images", type=Path, help="folder of the images that tools/local-images has built")
    parser.add_argument("--registry", default="", help="registry and path for the chart")
    parser.add_argument("--plain-http", action="store_true", help="push to a registry without TLS")
    parser.add_argument("--builder", default=provenance.LOCAL, help="URI of the builder in the provenance")
    options = parser.parse_args()
    try:
        run(options)
    except (ReleaseError, ValueError) as error:
        sys.stderr.write(f"no release: {error}\n")
        return 1
    return 0


def run(options: argparse.Namespace) -> None:
    """Run one command. Raise ReleaseError, or ValueError for a fault in a file of the tree."""
    url = os.environ.get("PROJECT_URL", "").rstrip("/")
    release = Release(ROOT, OUT / "dist", url)
    match options.command:
        case "check":
            versions = release.check(options.tag)
            print(f"version {versions.program}, chart {versions.chart}")  # noqa: T201
        case "sources":
            shutil.rmtree(release.out, ignore_errors=True)
            release.out.mkdir(parents=True)
            release.build_sources()
        case "wheels":
            (sdist,) = release.out.glob(SDIST)
            wheels = release.build_wheels(sdist)
            for wheel in wheels:
                release.check_wheel(wheel)
            interpreter = f"-cp{sysconfig.get_config_var('py_version_nodot')}-"
            (own,) = (wheel for wheel in wheels if interpreter in wheel.name)
            release.install(own, release.check())
        case "images":
            release.out.mkdir(parents=True, exist_ok=True)
            collect(options.images, release.out, release.epoch)
        case "seal":
            unsealed = {NOTES_FILE, STATEMENT_FILE, VEX_FILE, summary.SUMS}
            artifacts = [path for path in release.out.iterdir() if path.name not in unsealed]
            sys.stdout.write(summary.sums(release.seal(artifacts, options.builder)))
        case "dry-run":
            for folder in ("dist", "again"):
                shutil.rmtree(OUT / folder, ignore_errors=True)
            sys.stdout.write(summary.sums(dry_run(ROOT, OUT, url=url, images=options.images)))
        case "push-chart":
            (archive,) = release.out.glob("*.tgz")
            plain = ["--plain-http"] if options.plain_http else []
            name, digest = chart.push(archive, options.registry, release.epoch, *plain)
            print(f"name={name}\ndigest={digest}")  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
