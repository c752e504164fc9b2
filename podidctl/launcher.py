"""Entry points of `podidctl`, which also work without the extra `podidctl`: then they name the extra to install.

This module imports nothing at module level: a Ctrl-C while the console script imports it would print a traceback.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: "Sequence[str] | None" = None, *, complete: bool = False) -> int:
    """Run the command with *argv* (sys.argv[1:] by default), or with *complete* print its completions for kubectl.
    Return the exit code.
    """
    try:
        from podidentity.exits import escape_unencodable, missing_package  # noqa: PLC0415 - see above

        escape_unencodable()
        try:
            from podidctl.cli import main as run  # noqa: PLC0415 - needs the packages of the extra
            from podidctl.cli import print_completions  # noqa: PLC0415
        except ModuleNotFoundError as error:
            return missing_package("podidctl", error)
        return print_completions(argv) if complete else run(argv)
    except KeyboardInterrupt:
        return 130


def complete_for_kubectl(argv: "Sequence[str] | None" = None) -> int:
    """Run `kubectl_complete-podidentity`, which kubectl runs for a completion of `kubectl podidentity`."""
    return main(argv, complete=True)
