"""The Azure CLI, from the package registry: it parses commands without running them.

usage of the program below by the CLI's own Python: azure_cli.py < lines of JSON, each a list of words
"""

import contextlib
import importlib
import io
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

VERSION: Final = "2.91.0"
"""As in python/azure-cli.txt."""


def refused(commands: Sequence[Sequence[str]]) -> list[str]:
    """Return for each command the error of the CLI's parser, empty if it has none. Downloads the CLI once."""
    from tests.system.sdks import applications  # noqa: PLC0415 - the CLI's Python, which runs this file, does not have it

    python, program = applications.python("azure-cli.txt", Path(__file__).name, only_wheels=False)
    lines = "\n".join(json.dumps(list(each)) for each in commands)
    done = subprocess.run(
        [python, program],
        input=lines,
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": "/usr/bin:/bin", "AZURE_CONFIG_DIR": str(Path(python).parents[1] / "settings")},
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def _error(words: list[str]) -> str:
    """Return the parser's error for one command, without `az`."""
    cli: Any = importlib.import_module("azure.cli.core").get_default_cli()  # only the CLI's Python has it
    invocation = cli.invocation = cli.invocation_cls(
        cli_ctx=cli,
        parser_cls=cli.parser_cls,
        commands_loader_cls=cli.commands_loader_cls,
        help_cls=cli.help_cls,
        initial_data=None,
    )
    # The steps of `AzCliCommandInvoker.execute` up to its parser.
    invocation.commands_loader.load_command_table(words)
    command = invocation._rudimentary_get_command(words)
    invocation.data["command_string"] = command
    invocation.commands_loader.load_arguments(command)
    invocation.parser.load_command_table(invocation.commands_loader)
    output = io.StringIO()
    try:
        with contextlib.redirect_stderr(output), contextlib.redirect_stdout(output):
            invocation.parser.parse_args(words)
    except SystemExit:
        return output.getvalue().splitlines()[0]
    return ""


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(_error(json.loads(line))))  # noqa: T201
