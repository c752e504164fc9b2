"""One fuzzing process: libFuzzer's arguments behind the name of the target. Started by `run`, which makes its world.

What is Python here is instrumented while it is imported; the compiled rooms, where they are the subject, tell libFuzzer
of themselves when they are loaded.
"""

import logging
import os
import sys

import atheris  # type: ignore[import-untyped]  # not in the lock of the project: `make fuzz` installs it beside

INSTRUMENTED = ["nmi", "mic", "podidentity", "tests.oracle.requests"]


def main() -> None:
    """Never returns: libFuzzer ends the process."""
    name = sys.argv.pop(1)
    logging.disable()  # thousands of refusals a second
    with atheris.instrument_imports(include=INSTRUMENTED):
        from tests.fuzz import targets  # noqa: PLC0415 - only now

    made = dict(targets.TARGETS)
    if "LD_PRELOAD" in os.environ:
        import exact  # type: ignore[import-not-found]  # noqa: PLC0415 - compiled by `build`

        made["scan"] = lambda: targets.Scan(exact.scan, exact.query)
        made["query"] = lambda: targets.Query(exact.query)
    atheris.Setup(sys.argv, made[name]())
    atheris.Fuzz()
