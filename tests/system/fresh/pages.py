"""The commands of README.md, docs/index.md and docs/quick-start.md, read from the pages and run as a user would."""

import contextlib
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from tests.support.waiting import until_sync
from tests.system.fresh.machine import Machine

PAGES: Final = (
    ("README.md", ("Try it",)),
    ("docs/index.md", ("First commands",)),
    ("docs/quick-start.md", ("Follow one token", "Break a binding and find the fault")),
)
"""Each page, and the headings of the sections that are read."""
UP: Final = ".venv/bin/podidctl sandbox up"
"""Runs in the first terminal until Ctrl-C. The commands after it belong to a second terminal."""
EXCLUDED: Final = {"make cluster": "make nightly runs it, with the commands of the quick start that follow"}
OUTPUTS: Final = frozenset({"successfully made GET on instance metadata"})
"""Code in sentences that is not a command."""
SECONDS: Final = 60.0
"""Time limit of a state that the sandbox reaches by itself."""
CODE: Final = re.compile(r"^( *)```[^\n`]*\n(?P<block>.*?)^\1```$|`(?P<word>[^`]+)`", re.MULTILINE | re.DOTALL)
EXPORTS: Final = re.compile(r"^The sandbox is up.*\n((?: *export .+\n)+)(?= *#)", re.MULTILINE)
DEMO_END: Final = "The demo went well"


class Expected(NamedTuple):
    """The result of a command: its exit code, and what its output contains, immediately or *later*."""

    output: str = ""
    code: int = 0
    later: bool = False


RESULTS: Final = {
    "make demo": Expected(DEMO_END),
    ".venv/bin/podidctl sandbox demo --federated": Expected(DEMO_END),
    UP: Expected(),
    "kubectl logs -f demo": Expected("successfully made GET on instance metadata", later=True),
    "podidctl explain pod default/demo": Expected("default/demo-binding selects 'Demo'", code=3),
    "kubectl apply -f deploy/demo": Expected("azureidentitybinding.aadpodidentity.k8s.io/demo-binding"),
    "podidctl sandbox fault imds=500": Expected(),
}
"""The results of commands. Another command must end with 0."""


def section(page: str, heading: str) -> str:
    """Return the section of a page with this heading. Raise ValueError if it is missing."""
    match = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    if match is None:
        raise ValueError(f"the section {heading!r} is missing")
    return match[1]


def commands_of(text: str) -> Iterator[str]:
    """Yield the commands in blocks and sentences, in their order. A wrapped command is one.

    All code is a command, except names of one word in sentences, and OUTPUTS.
    """
    for match in CODE.finditer(text):
        if match["block"] is not None:
            lines = re.sub(r"\\\n\s*", "", match["block"]).splitlines()
            yield from (line.strip() for line in lines if line.strip())
        else:
            words = " ".join(match["word"].split())
            if " " in words and words not in OUTPUTS:
                yield words


def read(root: Path) -> dict[str, list[str]]:
    """Return the commands of each page below *root*. Raise ValueError as `check` does."""
    pages: dict[str, list[str]] = {}
    for name, headings in PAGES:
        text = (root / name).read_text()
        pages[name] = [command for heading in headings for command in commands_of(section(text, heading))]
    check(pages)
    return pages


def check(pages: Mapping[str, list[str]]) -> None:
    """Raise ValueError if a command with a stated result is on no page: its result would no longer be tested."""
    present = {command for commands in pages.values() for command in commands}
    if absent := {*RESULTS, *EXCLUDED} - present:
        raise ValueError(
            f"no page has: {'; '.join(sorted(absent))}. Adapt RESULTS or EXCLUDED in tests/system/fresh/pages.py"
        )


class Terminal:
    """A shell in *machine*, which keeps exported variables. What it prints is in *log*."""

    MARK: Final = "the command has ended with"

    def __init__(self, machine: Machine, log: Path) -> None:
        self._log = log
        self._shell = machine.start("exec bash", stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def type(self, command: str) -> tuple[int, str]:
        """Run *command*. Return its exit code and output. Raise RuntimeError if the shell ends."""
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        # Braces keep exports in this shell. A command that reads gets an end of file instead of the next command.
        self._shell.stdin.write(f'{{ {command}\n}} </dev/null; printf "\\n%s\\n" "{self.MARK} $?"\n')
        self._shell.stdin.flush()
        lines: list[str] = []
        with self._log.open("a") as log:
            print(f"$ {command}", file=log, flush=True)
            for line in self._shell.stdout:
                if line.startswith(self.MARK):
                    return int(line.removeprefix(self.MARK)), "".join(lines)
                lines.append(line)
                log.write(line)
        raise RuntimeError(f"the shell ended during {command!r}, or the machine reached its time limit")

    def close(self) -> None:
        """End the shell, and wait for it."""
        self._shell.communicate()


def follow(machine: Machine, name: str, commands: list[str], log: Path) -> None:
    """Run the commands of the page *name*. Raise RuntimeError for the first one with another result than expected."""
    if UP not in commands:
        type_all(machine, name, commands, log)
        return
    type_all(machine, name, commands[: commands.index(UP)], log)
    sandbox_log = log.with_suffix(".sandbox.log")
    with sandbox_log.open("w") as output:
        sandbox = machine.start(f"echo $$; exec {UP}", stdout=output)
    exports = until_sync(
        lambda: EXPORTS.search(sandbox_log.read_text()),
        lambda: f"{UP!r} prints its export lines:\n{sandbox_log.read_text()}",
    )
    assert exports
    lines = [line.strip() for line in exports[1].splitlines()]
    type_all(machine, name, [*lines, *commands[commands.index(UP) + 1 :]], log)
    pid = sandbox_log.read_text().split(maxsplit=1)[0]
    machine.run(f"kill -{signal.SIGINT.value} {pid}", log)
    if code := sandbox.wait():
        raise RuntimeError(f"{name}: {UP!r}, ended by Ctrl-C: the exit code is {code} instead of 0")


def type_all(machine: Machine, page: str, commands: list[str], log: Path) -> None:
    """Run *commands*, except EXCLUDED, in a new terminal. Raise RuntimeError as `follow` does."""
    with contextlib.closing(Terminal(machine, log)) as terminal:
        for command in commands:
            if command not in EXCLUDED:
                require(terminal, page, command, RESULTS.get(command, Expected()))


def require(terminal: Terminal, page: str, command: str, expected: Expected) -> None:
    """Run *command*, and again while a result is missing that is expected later. Raise RuntimeError for another one."""
    deadline = time.monotonic() + SECONDS
    # Ended by the result in place of Ctrl-C: the demo's next line finds no reader.
    typed = f"{command} | grep -m1 {shlex.quote(expected.output)}" if " logs -f " in command else command
    while True:
        code, output = terminal.type(typed)
        if code == expected.code and expected.output in output:
            return
        if not expected.later or time.monotonic() > deadline:
            fault = f"the output does not contain {expected.output!r}"
            if code != expected.code:
                fault = f"the exit code is {code} instead of {expected.code}"
            raise RuntimeError(f"{page}: {command!r}: {fault}")
        time.sleep(0.5)
