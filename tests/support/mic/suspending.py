"""`python -m mic` that suspends itself (SIGSTOP), at a place which a signal from outside would hit only by chance.

On SIGUSR1 it does so between two steps of its event loop. It never does between the last check of the lease and the
`send` of the same step: no process can make these two one action. With the environment's SUSPEND_AFTER it does so once,
after that method of the first PATCH: `send`, when aiohttp has prepared the request, or `write_bytes`, when it has given
the bytes to the loop.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from aiohttp.client_reqrep import ClientRequest

from mic.cli import main

Method = Callable[..., Coroutine[Any, Any, Any]]


def suspend() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def suspending(method: Method) -> Method:
    """Return *method* with a suspension after its first call for a PATCH."""
    called = False

    async def call(request: ClientRequest, *arguments: Any) -> Any:
        nonlocal called
        result = await method(request, *arguments)
        if request.method == "PATCH" and not called:
            called = True
            suspend()
        return result

    return call


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, lambda *_: asyncio.get_running_loop().call_soon_threadsafe(suspend))
    if name := os.environ.get("SUSPEND_AFTER"):
        setattr(ClientRequest, name, suspending(getattr(ClientRequest, name)))
    sys.exit(main())
