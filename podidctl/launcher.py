"""Entry point of `podidctl`, which also works without the extra `podidctl`: then it names the extra to install.

It imports nothing at module level: a Ctrl-C during an import of the script that calls `main` would print a traceback.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: "Sequence[str] | None" = None) -> int:
    """Run the command with *argv* (sys.argv[1:] by default) and return its exit code."""
    try:
        from podidentity.exits import missing_package  # noqa: PLC0415 - see above

        try:
            from podidctl.cli import main as run  # noqa: PLC0415 - needs the packages of the extra
        except ModuleNotFoundError as error:
            return missing_package("podidctl", error)
        return run(argv)
    except KeyboardInterrupt:
        return 130
