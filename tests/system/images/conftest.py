"""Images that `tools/local-images` has built: their files below build/images, and the execution of their programs.

Only `pytest tests/system/images` (that is `make local-images`) collects this folder. It needs root.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.checkout import ROOT

BUILT = ROOT / "build" / "images"
HERE = Path(__file__).parent
PROGRAMS = ("nmi", "mic", "podidctl", "demo")

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
    asked = (config.invocation_params.dir / argument.partition("::")[0] for argument in config.args)
    return None if any(path.resolve().is_relative_to(HERE) for path in asked) else True


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
        (entry,) = self.config["Entrypoint"]
        return self.run(entry, *arguments, user=user)

    def run(self, program: str, *arguments: str, user: str = "") -> list[str]:
        as_user = user or self.config["User"]
        return ["unshare", "--mount", "bash", "-c", ENTER, program, str(self.root), as_user, *arguments]

    @property
    def environment(self) -> dict[str, str]:
        return dict(each.split("=", 1) for each in self.config["Env"])


@pytest.fixture(params=PROGRAMS)
def image(request: pytest.FixtureRequest) -> Image:
    return Image(request.param)
