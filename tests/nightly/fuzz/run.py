"""Fuzzing of the targets one after the other, for SECONDS in total; used by `make fuzz`.

`python -m tests.nightly.fuzz.run SECONDS [TARGET...]`. Each target is a separate process. It starts with the
committed corpora and the useful inputs of earlier local runs (build/fuzz/corpus). The first input that breaks a
guarantee ends the run with exit code 1; the run prints the input and keeps it in build/fuzz/found.
"""

import argparse
import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.support.checkout import ROOT
from tests.support.corpus.corpus import EVERY

OUTPUT = ROOT / "build" / "fuzz"
CORPUS = Path(__file__).parent / "corpus"
"""The committed inputs: TARGET.txt has one bytes literal of Python on each line.

A line that begins with # names the input on the next line. An input without a name is one that libFuzzer kept because
it reaches code that the others do not reach.
"""
SHARES = {
    "scan": 3,
    "query": 1,
    "target": 1,
    "general": 3,
    "lanes": 2,
    "mic-objects": 3,
    "nmi-objects": 2,
    "locks": 1,
    "handover": 1,
    "kernel-messages": 1,
    "conntrack": 1,
    "http-responses": 1,
}
"""Share of the time for each target."""
COMPILED = {"scan", "query", "lanes"}
"""Targets of compiled code run under the sanitizers; targets of Python code are several times faster without."""
LONGEST_INPUT = 2048
"""In bytes. Every relevant limit is smaller, in the normal sizes or in the small sizes of the general lane's target."""
ONE_INPUT_SECONDS = 25
LAUNCH = "import sys; sys.argv[0] = 'fuzz'; from tests.nightly.fuzz.driver import main; main()"


def environment(target: str) -> dict[str, str]:
    """Return the environment of a fuzzing process.

    For compiled code, it preloads the sanitizer with libFuzzer and puts the instrumented extensions first.
    """
    paths = [OUTPUT, OUTPUT / "site", ROOT] if target in COMPILED else [OUTPUT / "site", ROOT]
    plain = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(str(each) for each in paths),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    if target not in COMPILED:
        return plain
    return {
        **plain,
        "LD_PRELOAD": str(OUTPUT / "site" / "asan_with_fuzzer.so"),
        # Python does not free all memory at exit. libFuzzer reports segmentation faults, together with the input.
        "ASAN_OPTIONS": "detect_leaks=0:quarantine_size_mb=64:allocator_may_return_null=1:handle_segv=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONMALLOC": "malloc",  # in Python's own arenas, the sanitizer does not detect the ends of objects
    }


def inputs(target: str) -> Iterator[tuple[str, bytes]]:
    """Yield each input of *target* with the file and the number of its line."""
    for number, line in enumerate((CORPUS / f"{target}.txt").read_text().splitlines(), 1):
        if not line.startswith("#"):
            yield f"{target}.txt:{number}", ast.literal_eval(line)


def write_inputs(target: str, folder: Path) -> None:
    """Write the committed inputs of *target* and the requests of tests/support/corpus as the only files of *folder*."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, data in [*inputs(target), *((case.name, case.data) for case in EVERY)]:
        (folder / name).write_bytes(data)


def fuzz(target: str, seconds: int) -> int:
    """Run one target and return its exit code."""
    kept, found, committed = OUTPUT / "corpus" / target, OUTPUT / "found", OUTPUT / "committed" / target
    for folder in (kept, found):
        folder.mkdir(parents=True, exist_ok=True)
    write_inputs(target, committed)
    before = set(found.glob(f"{target}-*"))
    command = [
        sys.executable,
        "-P",  # the working directory contains the extensions without instrumentation
        "-c",
        LAUNCH,
        target,
        f"-max_total_time={seconds}",
        f"-max_len={LONGEST_INPUT}",
        f"-timeout={ONE_INPUT_SECONDS}",
        f"-artifact_prefix={found}/{target}-",
        f"-dict={ROOT / 'tests' / 'nightly' / 'fuzz' / 'dictionary.txt'}",
        "-rss_limit_mb=2048",
        "-print_final_stats=1",
        str(kept),
        str(committed),
    ]
    code = subprocess.run(command, cwd=ROOT, env=environment(target), check=False).returncode
    for file in sorted(set(found.glob(f"{target}-*")) - before):
        data = file.read_bytes()
        say(f"\n{target}: this input breaks the guarantee ({file}):\n{data!r}")
        say(f"fix the defect, then add the input to tests/nightly/fuzz/corpus/{target}.txt, below a line with its name")
    return code


def say(text: str) -> None:
    """Print *text* between the lines of libFuzzer's output."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("seconds", type=int)
    parser.add_argument("targets", nargs="*", metavar="TARGET")
    arguments = parser.parse_args()
    targets = arguments.targets or list(SHARES)
    whole = sum(SHARES[target] for target in targets)
    for target in targets:
        share = max(2, arguments.seconds * SHARES[target] // whole)
        say(f"\n== {target}, {share} s")
        if fuzz(target, share):
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
