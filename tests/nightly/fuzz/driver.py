"""One fuzzing process. Its arguments are the name of the target and libFuzzer's arguments.

`run` starts it and prepares its environment. Python code is instrumented during its import. Compiled modules, if the
target tests them, register with libFuzzer when they are loaded.
"""

import logging
import os
import sys

import atheris  # type: ignore[import-untyped]  # not in the project's lock: `make fuzz` installs it separately

INSTRUMENTED = ["nmi", "mic", "podidentity", "tests.support.oracle"]


def main() -> None:
    """Run the target. Never returns: libFuzzer ends the process."""
    name = sys.argv.pop(1)
    logging.disable()  # the targets produce thousands of refusals per second
    with atheris.instrument_imports(include=INSTRUMENTED):
        from tests.nightly.fuzz import targets  # noqa: PLC0415 - imported under instrumentation

    made = dict(targets.TARGETS)
    if "LD_PRELOAD" in os.environ:
        import exact  # type: ignore[import-not-found]  # noqa: PLC0415 - compiled by `build`

        made["scan"] = lambda: targets.Scan(exact.scan, exact.query, exact.has_no_resource)
        made["query"] = lambda: targets.Query(exact.query)
    atheris.Setup(sys.argv, made[name]())
    atheris.Fuzz()
