"""The command `mic`: the only module that reads the process's arguments and environment.

The exit codes are those of `podidentity.exits`. With `--plan`, 0 means that there is nothing to do, `SOMETHING_TO_DO`
that there is, and 1 that this is unknown or only partly known.
"""

import asyncio
import gc
import json
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from mic.startup.setting_table import PlanOutput
from mic.startup.settings import MicSettings, parse
from podidentity.exits import StartError, ended, written_output
from podidentity.kube.errors import LeadershipLost
from podidentity.late_ca_certificates import import_aiohttp
from podidentity.version import VERSION

CONTAINER: Final = Path("/proc/1/cmdline")
"""Command line of the container's first process: under `kubectl exec`, of the MIC that runs in this container."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program with *argv* (sys.argv[1:] by default) and return its exit code; 1 also for a lost leadership."""
    code = 0

    def work() -> None:
        nonlocal code
        code = _run(sys.argv[1:] if argv is None else argv)

    return ended("mic", work, expected=(StartError, LeadershipLost)) or code


def _run(argv: Sequence[str]) -> int:
    with written_output():
        settings = parse(argv, os.environ)
        # As process 1 this program would only read its own flags.
        if settings.plan and os.getpid() != 1:
            # The plan uses the flags of the MIC in this container. Flags on this command line take precedence.
            settings = parse([*flags_of_container(_read(CONTAINER)), *argv], os.environ)
        if settings.version:
            print(f"mic {VERSION}")  # noqa: T201  unlike a write it accepts a closed standard output
            return 0
        if settings.plan:
            return _plan(settings)
    gc.disable()  # an import leaves no garbage that is worth a collection; mic.app enables it again
    import_aiohttp()
    # The Azure packages take half a second to import: not for --version, nor for a usage error.
    import uvloop  # noqa: PLC0415  see above

    from mic.app import run  # noqa: PLC0415  see above

    uvloop.run(run(settings))
    return 0


def flags_of_container(command_line: bytes) -> list[str]:
    """Return the flags in *command_line*, which has a zero byte after each argument, if that process is a MIC."""
    words = [word.decode(errors="replace") for word in command_line.split(b"\0")][:-1]
    for position, word in enumerate(words):
        if word.rpartition("/")[2] == "mic":
            return words[position + 1 :]
        if word.startswith("-") and word not in {"-m", "--"}:
            break  # another program's flags, where this argument has another meaning
    return []


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        # Without such a process the flags of this command line count alone.
        return b""


def _plan(settings: MicSettings) -> int:
    """Print the changes that MIC would make. Raise StartError, after printing, if Azure did not respond for every
    host."""
    from mic.preview.survey import survey  # noqa: PLC0415  not for a MIC that runs
    from mic.preview.text import lines, read_failures  # noqa: PLC0415  not for a MIC that runs
    from podidentity.report import SOMETHING_TO_DO  # noqa: PLC0415  not for a MIC that runs
    from podidentity.telemetry.logs import configure  # noqa: PLC0415  not for a MIC that runs

    configure(settings.log_format, settings.verbosity)
    preview = asyncio.run(survey(settings))
    if settings.plan_output is PlanOutput.JSON:
        shown = preview if settings.plan_all else preview.shortened()
        document = json.dumps(msgspec.to_builtins(shown), separators=(",", ":"))  # ASCII: JSON in every locale
        _print([document])
    else:
        _print(lines(preview, everything=settings.plan_all))
    if preview.unread_hosts:
        raise StartError(f"the plan is not complete: {'; '.join(line.strip() for line in read_failures(preview))}")
    return SOMETHING_TO_DO if preview.changes else 0


def _print(lines: Iterable[str]) -> None:
    try:
        sys.stdout.writelines(f"{line}\n" for line in lines)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader (head, a pager) has closed the pipe. The flush at exit must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
