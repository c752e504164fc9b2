"""The command `nmi`: the only module that reads the process's arguments and environment.

Its exit codes are those of `podidentity.exits`.
"""

import asyncio
import gc
import os
import sys
from collections.abc import Callable, Coroutine, Sequence

from nmi.choices import BootGuardAction
from nmi.settings import NmiSettings, parse
from podidentity.exits import StartError, ended, installation, written_output
from podidentity.machine_sleep import MachineSleptError
from podidentity.telemetry.late_exposition import import_prometheus
from podidentity.version import VERSION

# The modules that serve requests or access the cluster are imported only if the command line needs them: --version and
# --cleanup also run on machines, and in hooks, where some of them may be missing.


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program with *argv* (sys.argv[1:] by default) and return its exit code."""
    return ended("nmi", lambda: _run(sys.argv[1:] if argv is None else argv), expected=(StartError, MachineSleptError))


def _run(argv: Sequence[str]) -> None:
    with written_output():
        settings = parse(argv, os.environ)
        if settings.version:
            print(f"nmi {VERSION}")  # noqa: T201  unlike a write it accepts a closed standard output
            return
    if settings.boot_guard is not BootGuardAction.NONE:
        asyncio.run(_boot_guard(settings))
    elif settings.cleanup:
        asyncio.run(_cleanup(settings))
    else:
        _serve(settings)


def _serve(settings: NmiSettings) -> None:
    gc.disable()  # an import leaves no garbage that is worth a collection; nmi.app enables it again
    run = _app()
    import uvloop  # noqa: PLC0415  see above

    uvloop.run(run(settings))


def _app() -> Callable[[NmiSettings], Coroutine[object, object, None]]:
    """Return the program. Raises StartError if its compiled part is missing from this installation."""
    import_prometheus()
    try:
        from nmi.app import run  # noqa: PLC0415  see above
    except ImportError as error:
        if not (error.name or "").startswith("_native"):
            raise
        raise StartError(
            f"the compiled module {error.name} is missing, and NMI has no slower replacement for it: with a C "
            f"compiler, and without NATIVE_OMIT, run {installation('nmi')}"
        ) from error
    return run


async def _boot_guard(settings: NmiSettings) -> None:
    from nmi.boot_guard_command import run  # noqa: PLC0415  see above

    sys.stdout.write(f"{await run(settings)}\n")


async def _cleanup(settings: NmiSettings) -> None:
    from nmi.node.cleanup import cleanup  # noqa: PLC0415  see above

    removed = await cleanup(settings) or ["there was nothing of NMI on this node"]
    sys.stdout.write("".join(f"{line}\n" for line in removed))
