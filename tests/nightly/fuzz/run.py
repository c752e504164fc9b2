"""Fuzzing of the targets one after the other, for SECONDS in total; used by `make fuzz`.

`python -m tests.nightly.fuzz.run SECONDS [TARGET...]`. Each target is a separate process. It starts with the
committed corpora and the useful inputs of earlier local runs (build/fuzz/corpus). The first input that breaks a
guarantee ends the run with exit code 1; the run prints the input and keeps it in build/fuzz/found.
"""

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.nightly.fuzz.targets import TARGETS
from tests.support.checkout import ROOT
from tests.support.corpus.corpus import EVERY

OUTPUT = ROOT / "build" / "fuzz"
CORPUS = Path(__file__).parent / "corpus"
"""The committed inputs: TARGET.txt has one bytes literal of Python on each line.

A line that begins with # names the input on the next line. An input without a name is one that libFuzzer kept because
it reaches code that the others do not reach.
"""
SHARES = {"scan": 3, "general": 3, "lanes": 2, "mic-objects": 3, "nmi-objects": 2}
"""Share of the time for each target; 1 for the others."""
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
    plain = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": f"{OUTPUT / 'site'}:{ROOT}"}
    if target not in COMPILED:
        return plain
    return {
        **plain,
        "PYTHONPATH": f"{OUTPUT}:{plain['PYTHONPATH']}",
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


def fuzz(target: str, seconds: int) -> int:
    """Run one target and return its exit code."""
    kept, findings, committed = OUTPUT / "corpus" / target, OUTPUT / "found", OUTPUT / "committed" / target
    shutil.rmtree(committed, ignore_errors=True)
    for folder in (kept, findings, committed):
        folder.mkdir(parents=True, exist_ok=True)
    for name, data in [*inputs(target), *((case.name, case.data) for case in EVERY)]:
        (committed / name).write_bytes(data)
    before = set(findings.glob(f"{target}-*"))
    command = [
        sys.executable,
        "-P",  # the working directory contains the extensions without instrumentation
        "-c",
        LAUNCH,
        target,
        f"-max_total_time={seconds}",
        f"-max_len={LONGEST_INPUT}",
        f"-timeout={ONE_INPUT_SECONDS}",
        f"-artifact_prefix={findings}/{target}-",
        f"-dict={ROOT / 'tests' / 'nightly' / 'fuzz' / 'dictionary.txt'}",
        "-rss_limit_mb=2048",
        "-print_final_stats=1",
        str(kept),
        str(committed),
    ]
    code = subprocess.run(command, cwd=ROOT, env=environment(target), check=False).returncode
    for file in sorted(set(findings.glob(f"{target}-*")) - before):
        corpus = f"tests/nightly/fuzz/corpus/{target}.txt"
        print(f"\n{target}: this input breaks the guarantee ({file}):\n{file.read_bytes()!r}")  # noqa: T201
        print(f"fix the defect, then add the input to {corpus}, below a line with its name")  # noqa: T201
    return code


def main(seconds: int, targets: Sequence[str]) -> int:
    shares = {target: SHARES.get(target, 1) for target in targets or TARGETS}
    for target, share in shares.items():
        share_seconds = max(2, seconds * share // sum(shares.values()))
        print(f"\n== {target}, {share_seconds} s", flush=True)  # noqa: T201
        if fuzz(target, share_seconds):
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
