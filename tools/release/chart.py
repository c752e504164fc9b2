"""The chart as an archive, and the images that it starts."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

from tests.support.testplane import up
from tools.chart.rendering import REGISTRY
from tools.release.commands import ReleaseError, run

CHART: Final = Path("deploy") / "charts" / "aad-pod-identity"


def package(tree: Path, out: Path, epoch: int) -> Path:
    """Write the archive of the chart in *tree* to *out* and return its path. Raise ReleaseError.

    helm 4 gives its files the time *epoch*; helm 3 ignores SOURCE_DATE_EPOCH.
    """
    helm("lint", "--strict", str(tree / CHART))
    before = set(out.glob("*.tgz"))
    helm("package", f"--destination={out}", str(tree / CHART), SOURCE_DATE_EPOCH=str(epoch))
    (made,) = set(out.glob("*.tgz")) - before
    return made


def push(archive: Path, registry: str, epoch: int, *options: str) -> tuple[str, str]:
    """Push the chart to the OCI *registry* and return its name there and its digest. Raise ReleaseError.

    The manifest contains the archive's time, so this is set to *epoch*: the same chart has the same digest.
    """
    os.utime(archive, (epoch, epoch))
    output = helm("push", str(archive), f"oci://{registry}", *options)
    digest = re.search(r"^Digest: (sha256:[0-9a-f]{64})$", output, re.MULTILINE)
    if digest is None:
        raise ReleaseError(f"helm push reported no digest: {output}")
    return f"{registry}/{CHART.name}", digest[1]


def images(archive: Path) -> set[str]:
    """Return the images of the pods in the packaged chart with its default values. Raise ReleaseError.

    The registry, which the chart leaves to the operator, is not a part of their names.
    """
    rendered = helm("template", "release", str(archive), f"--values={REGISTRY}")
    return {
        container["image"].partition("/")[2]
        for document in yaml.safe_load_all(rendered)
        if document
        for pod in _pod_specs(document)
        for container in (*pod["containers"], *pod.get("initContainers", []))
    }


def helm(*arguments: str, **environment: str) -> str:
    """Return the output of helm. Raise ReleaseError if it fails."""
    return run(up.tool("helm"), *arguments, environment={**os.environ, **environment})


def _pod_specs(document: Any) -> Iterator[Any]:
    if isinstance(document, dict):
        if isinstance(document.get("containers"), list):
            yield document
        for value in document.values():
            yield from _pod_specs(value)
