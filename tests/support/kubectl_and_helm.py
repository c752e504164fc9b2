"""The real kubectl and helm, run on a control plane by its kubeconfig."""

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tests.support.testplane import up
from tests.support.waiting import until_sync

SECONDS: Final = 90
"""Time limit of a command, which may itself wait for up to a minute."""


class CommandError(AssertionError):
    """Failed command; the message has the command and its output."""


class Commands:
    """kubectl, and one of the helms, on one cluster.

    They do not read the user's settings. Their caches are in *home*, by default the kubeconfig's folder.
    """

    def __init__(self, kubeconfig: str, helm: str = "helm", *, home: Path | None = None) -> None:
        self._helm = str(up.tool(helm))
        self._kubectl = str(up.tool("kubectl"))
        self.environment: Mapping[str, str] = {
            "KUBECONFIG": kubeconfig,
            "HOME": str(home or Path(kubeconfig).parent),
            "PATH": f"{Path(self._kubectl).parent}:/usr/sbin:/usr/bin:/sbin:/bin",
        }

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Return the standard output. Raises CommandError if the command fails."""
        return self.run(self._kubectl, *arguments, stdin=stdin)

    def kubectl_unchecked(self, *arguments: str) -> str:
        """Return the standard output, also if the command fails."""
        return self.done(self._kubectl, *arguments).stdout

    def until_established(self, *definitions: str) -> None:
        """Wait until custom resource definitions, arguments of `kubectl wait`, are Established.

        kubectl also fails if a new definition has no conditions yet.
        """
        wait = ("wait", "--for=condition=Established", "--timeout=10s", *definitions)
        until_sync(lambda: self.kubectl(*wait), "the definitions are Established", ignoring=CommandError)

    def helm(self, *arguments: str) -> str:
        """Return the standard output. Raises CommandError if the command fails."""
        return self.run(self._helm, *arguments)

    def run(self, *command: str, stdin: str | None = None) -> str:
        """Run any program and return its standard output. Raises CommandError if it fails."""
        done = self.done(*command, stdin=stdin)
        if done.returncode != 0:
            raise CommandError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
        return done.stdout

    def done(self, *command: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run any program and return its exit code and output."""
        return subprocess.run(
            command,
            check=False,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            env=self.environment,
            input=stdin,
        )
