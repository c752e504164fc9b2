"""What an operator types: the real kubectl and helm, led to a control plane by its kubeconfig."""

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tests.testplane import up

SECONDS: Final = 90
"""For a command that itself waits for up to a minute."""


class CommandError(AssertionError):
    """A command that must succeed did not; the message is the command and all that it said."""


class Commands:
    """kubectl, and one of the helms, on one cluster.

    They see nothing of this user's own settings, and keep their caches in *home*, for which the kubeconfig's folder is
    taken where none is given.
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
        """The standard output of what must succeed. Raises CommandError."""
        return self.run(self._kubectl, *arguments, stdin=stdin)

    def kubectl_unchecked(self, *arguments: str) -> str:
        """What it says, also where it says no."""
        return self._done(self._kubectl, *arguments).stdout

    def helm(self, *arguments: str) -> str:
        """The standard output of what must succeed. Raises CommandError."""
        return self.run(self._helm, *arguments)

    def run(self, *command: str, stdin: str | None = None) -> str:
        """The standard output of what must succeed, whatever program it is. Raises CommandError."""
        done = self._done(*command, stdin=stdin)
        if done.returncode != 0:
            raise CommandError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
        return done.stdout

    def _done(self, *command: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            check=False,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            env=self.environment,
            input=stdin,
        )
