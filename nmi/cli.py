"""The command `nmi`: the one place that reads the process's arguments and environment and decides its exit code.

0 after an ordered stop, --version or --cleanup; 1 when something outside must change first (StartError); 2 for a
command line that cannot be used. Each of the latter two is one line on stderr that says what to do.
"""

import asyncio
import os
import sys
from collections.abc import Callable, Coroutine, Sequence

from nmi.errors import StartError
from nmi.settings import Settings, parse
from podidentity.flags import UsageError
from podidentity.version import VERSION

# What serves requests, and what knows the cluster, is imported only once the command line asks for it: --version and
# --cleanup run on machines, and in hooks, where half of it may be missing.


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program with *argv* (sys.argv[1:] by default) and return its exit code."""
    try:
        settings = parse(sys.argv[1:] if argv is None else argv, os.environ)
        if settings.version:
            sys.stdout.write(f"nmi {VERSION}\n")
            return 0
        asyncio.run(_cleanup(settings)) if settings.cleanup else _serve(settings)
    except UsageError as error:
        return _say(error, 2)
    except StartError as error:
        return _say(error, 1)
    except ExceptionGroup as group:  # out of a TaskGroup
        matched, rest = group.split(StartError)
        if matched is None or rest is not None:
            raise
        return _say(_first(matched), 1)
    except KeyboardInterrupt:
        return 130  # 128 + SIGINT: what a shell expects of a program that Ctrl-C ended before it handled signals itself
    return 0


def _serve(settings: Settings) -> None:
    run = _app()
    import uvloop  # noqa: PLC0415  see above

    uvloop.run(run(settings))


def _app() -> Callable[[Settings], Coroutine[object, object, None]]:
    """The program proper. Raises StartError when its compiled part is missing from this installation."""
    try:
        from nmi.app import run  # noqa: PLC0415  see above
    except ImportError as error:
        if not (error.name or "").startswith("_native"):
            raise
        raise StartError(
            f"the compiled module {error.name} is missing: build it with `pip install .` (in a checkout "
            f"`pip install -e .`); there is no slower way without it"
        ) from error
    return run


async def _cleanup(settings: Settings) -> None:
    from nmi.node.plumbing import cleanup  # noqa: PLC0415  see above

    await cleanup(settings)


def _first(group: ExceptionGroup[StartError]) -> StartError:
    """The first error that *group* holds, however deep."""
    inner = group.exceptions[0]
    return _first(inner) if isinstance(inner, ExceptionGroup) else inner


def _say(error: Exception, code: int) -> int:
    line = " ".join(str(error).split())
    sys.stderr.write(f"nmi: {line}\n")
    return code
