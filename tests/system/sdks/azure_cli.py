"""The Azure CLI, from the package registry: it parses commands without running them.

usage: python -m tests.system.sdks.azure_cli --write, which downloads the CLI and records the commands of the pages
usage by the CLI's own Python: azure_cli.py < lines of JSON, each a list of words
"""

import contextlib
import importlib
import io
import itertools
import json
import shlex
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
    lines = "\n".join(json.dumps(list(command)) for command in commands)
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


def parsed() -> dict[str, Any]:
    """Return the record of the commands of the pages, as the CLI parses them."""
    from tests.support import az_commands  # noqa: PLC0415 - as above

    commands = az_commands.of_pages()
    unknown = [bool(error) for error in refused([shlex.split(command) for command in commands])]
    return {
        "azure-cli": VERSION,
        "accepted": list(itertools.compress(commands, (not is_unknown for is_unknown in unknown))),
        "extension aks-preview": list(itertools.compress(commands, unknown)),
    }


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        record = Path(__file__).parents[2] / "support" / "az_commands.json"
        record.write_text(json.dumps(parsed(), indent=1) + "\n")
    else:
        for line in sys.stdin:
            print(json.dumps(_error(json.loads(line))))  # noqa: T201
