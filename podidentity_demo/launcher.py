"""Entry point of `podidentity-demo`, which also works without the extra `demo`: then it names the extra to install."""

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program with *argv* (sys.argv[1:] by default) and return its exit code; 2 if a package is missing."""
    try:
        from podidentity_demo.demo import main as run  # noqa: PLC0415 - needs the packages of the extra
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in {"", "podidentity_demo"}:
            raise
        fix = (
            "NATIVE_OMIT=1 pipx install --force '.[demo]' in a checkout of this project, or the same with a release's "
            "wheel for the dot (in a virtual environment NATIVE_OMIT=1 pip install --force-reinstall)"
        )
        sys.stderr.write(f"podidentity-demo: the package {package} is missing: {fix}\n")
        return 2
    return run(argv)
