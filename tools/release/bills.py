"""Bills of materials of the Python distributions and of the chart, as CycloneDX 1.6 in JSON."""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from tools.release.commands import run

NAME: Final = "aad-pod-identity"


def of_distributions(python: Path, version: str) -> dict[str, Any]:
    """Return the bill of the source distribution and of the wheels.

    Its components are the packages in the environment of *python*, which are those of the project's extras, each with
    the locked version. *version* is the project's version in the form of PEP 440.
    """
    command = [sys.executable, "-m", "cyclonedx_py", "environment", "--output-reproducible", "--spec-version=1.6"]
    command += ["--output-format=JSON", "--output-file=-", str(python)]
    document: dict[str, Any] = json.loads(run(*command))
    # The tool describes the project as a package that was installed from a file of this machine.
    (own,) = (component for component in document["components"] if component["name"] == NAME)
    purl = f"pkg:pypi/{NAME}@{version}"
    document["components"] = [component for component in document["components"] if component is not own]
    for dependency in document["dependencies"]:
        dependency["ref"] = purl if dependency["ref"] == own["bom-ref"] else dependency["ref"]
    document["metadata"]["component"] = {
        "type": "application",
        "bom-ref": purl,
        "name": NAME,
        "version": version,
        "purl": purl,
        "licenses": own["licenses"],
    }
    return document


def of_chart(images: Iterable[str], version: str) -> dict[str, Any]:
    """Return the bill of the chart of *version*: the images that it starts with its default values."""
    root = {"type": "application", "bom-ref": "chart", "name": f"{NAME} (chart)", "version": version}
    components = [
        {"type": "container", "bom-ref": image, "name": image.rpartition(":")[0], "version": image.rpartition(":")[2]}
        for image in sorted(set(images))
    ]
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": root},
        "components": components,
        "dependencies": [
            {"ref": "chart", "dependsOn": [component["bom-ref"] for component in components]},
            *({"ref": component["bom-ref"]} for component in components),
        ],
    }
