"""Cilium's CustomResourceDefinitions, printed by a program that is built with Cilium's Go package, pinned by go.sum."""

import functools
import hashlib
import os
import subprocess
from pathlib import Path
from typing import Any, Final

import yaml

from tests.testplane import up

SOURCES: Final = Path(__file__).parent / "cilium"
REDIRECTS: Final = "ciliumlocalredirectpolicies"
CLUSTERWIDE: Final = "ciliumclusterwidenetworkpolicies"


@functools.cache
def definitions() -> dict[str, Any]:
    """Return the definitions of the policies that the chart creates, by plural. The first call downloads 38 MB."""
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in sorted(SOURCES.iterdir())))

    def make(new: Path) -> None:
        command = [up.go(), "build", "-mod=readonly", "-trimpath", "-o", str(new / "definitions"), "."]
        subprocess.run(command, cwd=SOURCES, check=True, env={**os.environ, "CGO_ENABLED": "0"}, timeout=240)

    program = up.once(up.CACHE / f"cilium-{digest.hexdigest()[:16]}", make) / "definitions"
    text = subprocess.run([program, REDIRECTS, CLUSTERWIDE], check=True, capture_output=True, timeout=20).stdout
    return {each["spec"]["names"]["plural"]: each for each in yaml.safe_load_all(text)}
