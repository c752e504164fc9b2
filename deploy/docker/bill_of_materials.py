"""Write the images' bills of materials in CycloneDX JSON: Python, its packages and Debian's. The Dockerfile runs this.

usage: bill_of_materials.py VERSION PROGRAM...

VERSION is the version of the images, in the form of their labels (SemVer). The wheel has the same version as PEP 440
spells it.
The image's files are in /images/PROGRAM; the bill is written to /sbom/PROGRAM.cdx.json. It contains no time and no
random number, so that equal images have equal bills, and is validated with CycloneDX's schema.
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
    """Yield a component for each installed package in dpkg's status file."""
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
    """Yield components for the base's Python and its packages, if Debian's packages do not include them."""
    lines = (root / "opt/podidentity/pyvenv.cfg").read_text().splitlines()
    settings = dict(line.split(" = ", 1) for line in lines if " = " in line)
    home = Path(settings["home"]).relative_to("/")
    if home == Path("usr/bin"):
        return
    purl = f"pkg:generic/python@{settings['version']}"
    yield {"type": "platform", "bom-ref": purl, "name": "python", "version": settings["version"], "purl": purl}
    for site in (root / home.parent / "lib").glob("python3*/site-packages"):
        for distribution in metadata.distributions(path=[str(site)]):
            name, version = distribution.metadata["Name"], distribution.version
            purl = f"pkg:pypi/{name.lower()}@{quote(version, '')}"
            # The program's environment can contain the same package, so the reference must differ.
            yield {"type": "library", "bom-ref": f"base-{purl}", "name": name, "version": version, "purl": purl}


def bill(program: str, version: str) -> dict[str, Any]:
    """Return the bill of the image of *program*, which has the given *version*. Raise CalledProcessError."""
    root = IMAGES / program
    (site,) = (root / "opt/podidentity/lib").glob("python3*/site-packages")
    # Use the interpreter of this stage: the image's runs only at its path in the image.
    listed = subprocess.run(
        [sys.executable, "-m", "cyclonedx_py", "environment", "--output-reproducible", "--spec-version=1.6",
         "--output-format=JSON", "--output-file=-", str(runnable_environment(site, program))],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    document: dict[str, Any] = json.loads(listed.stdout)
    image = {"type": "container", "bom-ref": f"image-{program}", "name": f"aad-pod-identity/{program}"}
    document["metadata"]["component"] = {**image, "version": version}
    document["components"] = sorted(
        [*document["components"], *python_of_the_base(root), *debian_packages(root)],
        key=lambda component: (component["name"], component["bom-ref"]),
    )
    return document


def runnable_environment(site: Path, program: str) -> Path:
    """Return an environment with an interpreter of this stage and the packages at *site*."""
    environment = Path("/tmp") / program  # noqa: S108 - private to this build stage
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    (own,) = environment.glob("lib/python3*/site-packages")
    own.rmdir()
    own.symlink_to(site)
    return environment


def main() -> None:
    """Write the bill of each program that the arguments name after the version. Exit if a bill is not valid."""
    # Only the stage sbom-files has this library.
    from cyclonedx.schema import SchemaVersion  # noqa: PLC0415
    from cyclonedx.validation.json import JsonStrictValidator  # noqa: PLC0415

    SBOM.mkdir(exist_ok=True)
    version, *programs = sys.argv[1:]
    for program in programs:
        text = json.dumps(bill(program, version), indent=1, sort_keys=True) + "\n"
        problem = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
        if problem is not None:
            sys.exit(f"{program}: not a CycloneDX document: {problem}")
        (SBOM / f"{program}.cdx.json").write_text(text)


if __name__ == "__main__":
    main()
