"""Entry point of `podidctl`, which also works without the extra `podidctl`: then it names the extra to install."""

from collections.abc import Sequence

from podidentity.exits import missing_package


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with *argv* (sys.argv[1:] by default) and return its exit code."""
    try:
        from podidctl.cli import main as run  # noqa: PLC0415 - needs the packages of the extra
    except ModuleNotFoundError as error:
        return missing_package("podidctl", error)
    except KeyboardInterrupt:  # the imports take a second on a busy machine
        return 130
    return run(argv)
