"""`python -m mic` that suspends itself (SIGSTOP) once, at a place which a signal from outside would hit only by chance.

Its lease is long, and it renews each second; see `renewing`.

SUSPEND in the environment is `PLACE METHOD PART NUMBER`: it does so after that request of the method with this part in
its path. PLACE is `send`, when aiohttp has prepared the request, or `write_bytes`, when it has given the bytes to the
loop. It never does between the last check of the lease and the `send` of the same step: no process can make these two
one action.

After SIGCONT the clock is SUSPENDED_SECONDS ahead, as after a suspension of that length.
"""

import itertools
import os
import signal
import sys
import time
from typing import Any
from unittest.mock import patch

from aiohttp.client_reqrep import ClientRequest

SUSPENDED_SECONDS = 7200.0
"""Twice the duration of the lease."""

if __name__ == "__main__":
    place, method, part, number = os.environ["SUSPEND"].split()
    call, clock = getattr(ClientRequest, place), time.monotonic
    requests, ahead = itertools.count(1), [0.0]

    async def called(request: ClientRequest, *arguments: Any) -> Any:
        result = await call(request, *arguments)
        if request.method == method and part in request.url.path and next(requests) == int(number):
            os.kill(os.getpid(), signal.SIGSTOP)
            ahead[0] = SUSPENDED_SECONDS
        return result

    # Before the first import of the modules that have the clock as a default.
    with patch.object(time, "monotonic", lambda: clock() + ahead[0]), patch.object(ClientRequest, place, called):
        from tests.support.mic.renewing import run

        sys.exit(run())
