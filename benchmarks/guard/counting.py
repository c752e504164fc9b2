"""Runs `batches` three times: under callgrind, with counted allocations, under strace. All counts are per request.

Each number is the minimum of REPEATED runs, since disturbances (for example bytes that the kernel delivers late, so
that the loop makes an additional pass) only increase it.
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from benchmarks.compiled import ROOT, extension, library
from benchmarks.guard.baseline import Counts
from benchmarks.guard.callgrind import Dump, dumps

REPEATED: Final = 3
SECONDS_MAX: Final = 200
FUNCTIONS_KEPT: Final = 60
"""The number of most expensive functions that are kept per batch."""
_NATIVE: Final = frozenset(path.stem for path in (ROOT / "_native").glob("*.pyx"))
_MARKS: Final = frozenset({"marks", "steady"})
_CALL: Final = re.compile(r"^\d+ +(\w+)\((.*)")


class ToolMissingError(RuntimeError):
    """A program that the guard needs is not installed. The message names the package to install."""


def tool(name: str) -> str:
    """Return the path of a program whose package has the same name. Raises ToolMissingError."""
    path = shutil.which(name)
    if path is None:
        raise ToolMissingError(f"{name} is not installed; run `sudo apt-get install {name}`")
    return path


def command(times: int, traced: str, output: Path, only: Sequence[str]) -> list[str]:
    """Return the command of the process under measurement."""
    return [sys.executable, "-m", "benchmarks.guard.batches", str(times), traced, str(output), *only]


def environment(**more: str) -> dict[str, str]:
    """Return an environment without the caller's variables, so that hashes and addresses are the same each time."""
    preload = str(library(Path(__file__).with_name("steady.c")))
    return {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "PYTHONHASHSEED": "0", "LD_PRELOAD": preload, **more}


def run(words: Sequence[str | Path], settings: Mapping[str, str]) -> None:
    """Run a command. Raises RuntimeError with the end of its output, and TimeoutExpired."""
    done = subprocess.run(
        words, env=settings, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS_MAX, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{words[0]} ended with {done.returncode}:\n{done.stderr[-3000:]}")


def counted(only: Sequence[str] = ()) -> dict[str, Counts]:
    """Return all counts of each batch, or of the named ones. Raises ToolMissingError and RuntimeError."""
    valgrind, strace = tool("valgrind"), tool("strace")
    environment()
    extension(
        Path(__file__).with_name("marks.pyx")
    )  # both are compiled once, before three processes need them concurrently
    with tempfile.TemporaryDirectory(prefix="guard-") as name, ThreadPoolExecutor(3) as threads:
        folder = Path(name)
        under_callgrind = threads.submit(instructions, valgrind, folder, only)
        under_strace = threads.submit(system_calls, strace, folder, only)
        unwatched = threads.submit(allocations, folder, only)
        dumped, called, allocated = under_callgrind.result(), under_strace.result(), unwatched.result()
    return {
        batch: Counts(
            instructions=sum(functions.values()),
            native=sum(count for name, count in functions.items() if name.partition(":")[0] in _NATIVE),
            allocations=allocated[batch],
            system_calls=called[batch],
            functions=dict(Counter(functions).most_common(FUNCTIONS_KEPT)),
        )
        for batch, functions in dumped.items()
    }


def instructions(valgrind: str, folder: Path, only: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return the instructions per request of each function (`object:name`) without callees, per batch."""
    return {batch: per_request(dump, requests) for batch, (dump, requests) in dumped(valgrind, folder, only).items()}


def dumped(valgrind: str, folder: Path, only: Sequence[str]) -> dict[str, tuple[Dump, int]]:
    """Return callgrind's dump and the number of requests of each batch."""
    output = folder / "callgrind.json"
    prefix = folder / "callgrind.out"
    options = ["--instr-atstart=no", "--collect-atstart=no", "--dump-line=no", "--compress-strings=no"]
    callgrind = [valgrind, "--tool=callgrind", f"--callgrind-out-file={prefix}", "--compress-pos=no", *options]
    run([*callgrind, *command(REPEATED, "untraced", output, only)], environment())
    fewest = least(dumps(prefix))
    return {batch: (fewest[batch], runs[0]["requests"]) for batch, runs in json.loads(output.read_text()).items()}


def least(every: Sequence[Dump]) -> dict[str, Dump]:
    """Return the dump with the fewest instructions for each name."""
    fewest: dict[str, Dump] = {}
    for dump in every:
        if dump.name not in fewest or dump.total() < fewest[dump.name].total():
            fewest[dump.name] = dump
    return fewest


def per_request(dump: Dump, requests: int) -> dict[str, float]:
    """Return instructions by `object:name`, without the cost of the marks."""
    spent: dict[str, float] = {}
    for function, count in dump.own.items():
        if function.object not in _MARKS:
            name = f"{function.object}:{function.name.partition(chr(39))[0]}"  # recursion: name'2
            spent[name] = spent.get(name, 0.0) + count / requests
    return spent


def allocations(folder: Path, only: Sequence[str]) -> dict[str, float]:
    """Return the allocations per request, including Python's small objects."""
    output = folder / "allocations.json"
    run(command(REPEATED, "untraced", output, only), environment(PYTHONMALLOC="malloc"))
    return {
        batch: min(repetition["allocations"] / repetition["requests"] for repetition in every)
        for batch, every in json.loads(output.read_text()).items()
    }


def system_calls(strace: str, folder: Path, only: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return the system calls per request, by name."""
    output = folder / "strace.json"
    trace = folder / "trace"
    preload = environment()
    inside = [f"--env={name}={value}" for name, value in preload.items()]
    run([strace, "-f", "-o", trace, *inside, *command(REPEATED, "traced", output, only)], {"PATH": preload["PATH"]})
    every = json.loads(output.read_text())
    fewest: dict[str, dict[str, float]] = {}
    with trace.open() as lines:
        for batch, called in between_marks(lines):
            if batch in every:
                requests = every[batch][0]["requests"]
                this = {name: count / requests for name, count in sorted(called.items())}
                if batch not in fewest or sum(this.values()) < sum(fewest[batch].values()):
                    fewest[batch] = this
    return fewest


def between_marks(lines: Iterable[str]) -> list[tuple[str, Counter[str]]]:
    """Return the calls between `begin` and `end`, up to the end of each batch."""
    batches: list[tuple[str, Counter[str]]] = []
    called: Counter[str] = Counter()
    counting = False
    for line in lines:
        match = _CALL.match(line)
        if match is None:
            continue
        name, rest = match.groups()
        if name == "write" and rest.startswith("-1, "):
            text = rest.split('"')[1]
            if text in {"begin", "end"}:
                counting = text == "begin"
            else:
                batches.append((text, called))
                called = Counter()
        elif counting:
            called[name] += 1
    return batches
