"""Fuzzes the targets for some seconds in all, one after the other; `make fuzz`.

`python tests/fuzz/run.py SECONDS [TARGET...]`. Each target is a process of its own that
begins with the committed corpora and with what earlier runs here have found worth keeping (build/fuzz/corpus). The
first input that breaks a promise ends the run with exit code 1; it is printed, and kept in build/fuzz/found.
"""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
OUTPUT = ROOT / "build" / "fuzz"
SHARES = {"scan": 3, "query": 1, "target": 1, "general": 3, "lanes": 2, "mic-objects": 3, "nmi-objects": 2, "locks": 1}
"""How much of the time each target gets."""
COMPILED = {"scan", "query", "lanes"}
"""Targets of compiled code run under the sanitizers; targets of Python code are several times faster without."""
LONGEST_INPUT = 2048
"""Bytes. Every limit that matters is below it, in the small sizes of the general lane's target if not in the usual."""
ONE_INPUT_SECONDS = 25
LAUNCH = "import sys; sys.argv[0] = 'fuzz'; from tests.fuzz.driver import main; main()"


def environment(target: str) -> dict[str, str]:
    """Of a fuzzing process: for compiled code sanitizer and libFuzzer first, and the instrumented extensions."""
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
        # Python never frees all it has at its end. Segmentation faults are libFuzzer's to report, with the input.
        "ASAN_OPTIONS": "detect_leaks=0:quarantine_size_mb=64:allocator_may_return_null=1:handle_segv=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONMALLOC": "malloc",  # else most objects are in Python's own arenas, where no sanitizer sees their ends
    }


def fuzz(target: str, seconds: int) -> int:
    """The exit code of one target's run."""
    kept, found = OUTPUT / "corpus" / target, OUTPUT / "found"
    for folder in (kept, found):
        folder.mkdir(parents=True, exist_ok=True)
    before = set(found.glob(f"{target}-*"))
    command = [
        sys.executable,
        "-P",  # the working directory has ordinary extensions
        "-c",
        LAUNCH,
        target,
        f"-max_total_time={seconds}",
        f"-max_len={LONGEST_INPUT}",
        f"-timeout={ONE_INPUT_SECONDS}",
        f"-artifact_prefix={found}/{target}-",
        f"-dict={ROOT / 'tests' / 'fuzz' / 'dictionary.txt'}",
        "-rss_limit_mb=2048",
        "-print_final_stats=1",
        # In CI the same choices each time: what only others show is looked for by developers, and fails their runs.
        *(["-seed=1"] if os.environ.get("CI") == "true" else []),
        str(kept),
        str(ROOT / "tests" / "fuzz" / "corpus" / target),
        *(str(ROOT / "tests" / "corpus" / each) for each in ("accepted", "refused")),
    ]
    code = subprocess.run(command, cwd=ROOT, env=environment(target), check=False).returncode
    for file in sorted(set(found.glob(f"{target}-*")) - before):
        data = file.read_bytes()
        say(f"\n{target}: this input breaks it ({file}):\n{data!r}")
        say(f"once mended, keep it in tests/fuzz/corpus/{target}/ under a name that says what it is")
    return code


def say(text: str) -> None:
    """Between what libFuzzer says."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> int:
    seconds = int(sys.argv[1])
    targets = sys.argv[2:] or list(SHARES)
    whole = sum(SHARES[target] for target in targets)
    for target in targets:
        share = max(2, seconds * SHARES[target] // whole)
        say(f"\n== {target}, {share} s")
        if fuzz(target, share):
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
