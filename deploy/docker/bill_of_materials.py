"""Writes images' bills of materials, CycloneDX JSON: Python, its packages and Debian's. Run by the Dockerfile.

usage: bill_of_materials.py PROGRAM...

An image's files are under /images/PROGRAM; the bill becomes /sbom/PROGRAM.cdx.json. It holds no time and no random
number, so that the same image has the same bill, and it is held against CycloneDX's schema before it is written.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import quote

IMAGES, SBOM = Path("/images"), Path("/sbom")


def debian_packages(root: Path) -> Iterator[dict[str, Any]]:
    """The installed packages of dpkg's status file, each as a component."""
    lines = (root / "usr/lib/os-release").read_text().replace('"', "").splitlines()
    release = dict(line.split("=", 1) for line in lines if "=" in line)
    distribution = f"{release['ID']}-{release.get('VERSION_ID', 'unstable')}"
    for paragraph in (root / "var/lib/dpkg/status").read_text().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in paragraph.splitlines() if ": " in line and line[0] != " ")
        if fields.get("Status", "").endswith(" installed"):
            name, version, architecture = fields["Package"], fields["Version"], fields["Architecture"]
            purl = f"pkg:deb/{release['ID']}/{name}@{quote(version, '')}?arch={architecture}&distro={distribution}"
            yield {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}


def python_of_the_base(root: Path) -> Iterator[dict[str, Any]]:
    """The base's Python and what is installed for it, where it is none of Debian's packages, each as a component."""
    lines = (root / "opt/podidentity/pyvenv.cfg").read_text().splitlines()
    settings = dict(line.split(" = ", 1) for line in lines if " = " in line)
    home = Path(settings["home"]).relative_to("/")
    if home == Path("usr/bin"):
        return
    purl = f"pkg:generic/python@{settings['version']}"
    yield {"type": "platform", "bom-ref": purl, "name": "python", "version": settings["version"], "purl": purl}
    for site in (root / home.parent / "lib").glob("python3*/site-packages"):
        for each in metadata.distributions(path=[str(site)]):
            name, version = each.metadata["Name"], each.version
            purl = f"pkg:pypi/{name.lower()}@{quote(version, '')}"
            # The program may have the same package in its own environment, so this is not to be its reference.
            yield {"type": "library", "bom-ref": f"base-{purl}", "name": name, "version": version, "purl": purl}


def bill(program: str) -> dict[str, Any]:
    """The bill of the image of *program*. Raises CalledProcessError."""
    root = IMAGES / program
    (site,) = (root / "opt/podidentity/lib").glob("python3*/site-packages")
    # The interpreter is this stage's: the image's has its place in the image only.
    listed = subprocess.run(
        [sys.executable, "-m", "cyclonedx_py", "environment", "--output-reproducible", "--spec-version=1.6",
         "--output-format=JSON", "--output-file=-", str(look_alike(site, program))],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    document: dict[str, Any] = json.loads(listed.stdout)
    (version,) = (each["version"] for each in document["components"] if each["name"] == "aad-pod-identity")
    image = {"type": "container", "bom-ref": f"image-{program}", "name": f"aad-pod-identity/{program}"}
    document["metadata"]["component"] = {**image, "version": version}
    document["components"] = sorted(
        [*document["components"], *python_of_the_base(root), *debian_packages(root)],
        key=lambda each: (each["name"], each["bom-ref"]),
    )
    return document


def look_alike(site: Path, program: str) -> Path:
    """An environment whose interpreter runs here and whose packages are those at *site*."""
    environment = Path("/tmp") / program  # noqa: S108 - a build stage of our own
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    (own,) = environment.glob("lib/python3*/site-packages")
    own.rmdir()
    own.symlink_to(site)
    return environment


def main() -> None:
    # Only the stage of the bills has this library.
    from cyclonedx.schema import SchemaVersion  # noqa: PLC0415
    from cyclonedx.validation.json import JsonStrictValidator  # noqa: PLC0415

    SBOM.mkdir(exist_ok=True)
    for program in sys.argv[1:]:
        text = json.dumps(bill(program), indent=1, sort_keys=True) + "\n"
        problem = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
        if problem is not None:
            sys.exit(f"{program}: not a CycloneDX document: {problem}")
        (SBOM / f"{program}.cdx.json").write_text(text)


if __name__ == "__main__":
    main()
