"""Images that `tools/local-images` has built: their files below build/images, and the execution of their programs.

Only `pytest tests/system/images` (that is `make local-images`) collects this folder. It needs root.
"""

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.checkout import ROOT

BUILT = ROOT / "build" / "images"
HERE = Path(__file__).parent
PROGRAMS = ("nmi", "mic", "podidctl", "demo")
PYTHON = "/opt/podidentity/bin/python3"

# A minimal container: a mount namespace with the image's files as its read-only root, and with the machine's /proc,
# /dev and /tmp, which contains the sandbox's files. The folder in the variable SERVICE_ACCOUNT is mounted where
# Kubernetes mounts the service account of a pod.
ENTER = """
set -e
mount --bind "$1" "$1"
mount -o remount,bind,ro "$1"
mount -t proc proc "$1/proc"
mount --rbind /dev "$1/dev"
mount --bind /tmp "$1/tmp"
mount -t tmpfs tmpfs "$1/run"
if [ -n "$SERVICE_ACCOUNT" ]; then
    mkdir -p "$1/run/secrets/kubernetes.io/serviceaccount"
    mount --bind "$SERVICE_ACCOUNT" "$1/run/secrets/kubernetes.io/serviceaccount"
fi
exec /usr/sbin/chroot --userspec="$2" "$1" "$0" "${@:3}"
"""


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Ignore the folder unless the command line names it or a path in it."""
    del collection_path
    paths = (config.invocation_params.dir / argument.partition("::")[0] for argument in config.args)
    return None if any(path.resolve().is_relative_to(HERE) for path in paths) else True


@dataclass(frozen=True, slots=True)
class Image:
    """One of the images."""

    name: str

    @property
    def root(self) -> Path:
        return BUILT / "rootfs" / self.name

    @property
    def config(self) -> dict[str, Any]:
        """The image's configuration: user, entry point, environment, labels."""
        return dict(json.loads((BUILT / f"{self.name}.json").read_text()))

    @property
    def site(self) -> Path:
        (site,) = self.root.glob("opt/podidentity/lib/python3*/site-packages")
        return site

    @property
    def bill(self) -> dict[str, Any]:
        return dict(json.loads((BUILT / "sbom" / f"{self.name}.cdx.json").read_text()))

    def command(self, *arguments: str, user: str = "") -> list[str]:
        """Return a command that runs the image's entry point with *arguments*, as the image's user or *user*."""
        return self.enter(*self.config["Entrypoint"], *arguments, user=user)

    def enter(self, program: str, *arguments: str, user: str = "") -> list[str]:
        """Return a command that runs *program* in the image."""
        as_user = user or self.config["User"]
        return ["unshare", "--mount", "bash", "-c", ENTER, program, str(self.root), as_user, *arguments]

    def run(self, command: Sequence[str], given: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
        """Return the result of *command* with the input *given*, the image's variables, and *variables*."""
        environment = dict(variable.split("=", 1) for variable in self.config["Env"])
        return subprocess.run(
            command, env={**environment, **variables}, input=given, capture_output=True, text=True, check=False
        )

    def python(self, *arguments: str, given: str = "", user: str = "", before: Sequence[str] = ()) -> Any:
        """Return the JSON value that the image's Python prints. The command *before* starts it."""
        result = self.run([*before, *self.enter(PYTHON, "-I", *arguments, user=user)], given)
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)


@pytest.fixture(params=PROGRAMS)
def image(request: pytest.FixtureRequest) -> Image:
    return Image(request.param)
