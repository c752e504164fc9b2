"""Programs that a release runs, and the error that ends it."""

import subprocess
from collections.abc import Mapping
from pathlib import Path


class ReleaseError(Exception):
    """Fault that prevents the release; the message has the next action, or the output of the program that failed."""


def run(
    *command: str | Path, cwd: Path | None = None, environment: Mapping[str, str] | None = None, umask: int = -1
) -> str:
    """Return the standard output of *command*. Raise ReleaseError if it fails.

    *environment* replaces that of this process. Without *umask*, that of this process applies.
    """
    done = subprocess.run(command, cwd=cwd, env=environment, umask=umask, capture_output=True, text=True, check=False)
    if done.returncode:
        output = f"{done.stdout}{done.stderr}"
        raise ReleaseError(f"{' '.join(map(str, command))} failed:\n{output[-3000:]}")
    return done.stdout
