"""Wait for the API server when a program starts. It ends only when the API server responds.

There are two steps: `made` returns after the first response, `first_lists` after every informer is complete. Both retry
without a time limit and log at most one line a minute. If the program exited instead, the kubelet would restart it with
a back-off of up to five minutes, which continues after the API server has recovered.

Requests are sent at intervals of 1.5 to 3 s, which gives 444 requests a second for 1,000 nodes. Each uses a new
connection, because an old one may be half-open: a server without power or a disconnected network sends no reset. For
the same reason a request that hangs does not delay the next one.
"""

import asyncio
import logging
import random as random_module
import time
from collections.abc import Callable, Collection
from typing import Any, Final

from podidentity.kube.access import ClusterAccess
from podidentity.kube.backoff import Backoff
from podidentity.kube.client import Client
from podidentity.kube.errors import AccessError, ApiError, Forbidden, NoResponse, TooManyRequests, Unauthorized
from podidentity.kube.informer import RETRY_AFTER_MAX, Informer
from podidentity.kube.sessions import OpenSession, aiohttp_session
from podidentity.telemetry.log_limit import LogLimit

log = logging.getLogger(__name__)

INTERVAL_FIRST_SECONDS: Final = 1.0
INTERVAL_MOST_SECONDS: Final = 3.0
"""From the start of one request to the start of the next. The upper bound is 5 s minus two seconds for the first lists.
"""
REQUEST_SECONDS: Final = 15.0
"""Time limit of one request. A slow API server responds to the oldest request, a recovered one to the newest.
"""


class FirstContact:
    """Wait of one program for one API server. Call `made`, then `first_lists`; both can be cancelled."""

    def __init__(
        self,
        access: ClusterAccess,
        *,
        user_agent: str,
        log_limit: LogLimit,
        open_session: OpenSession = aiohttp_session,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = random_module.random,
    ) -> None:
        """*log_limit* is shared with the informers, so that they log one line a minute together."""
        self._access = access
        self._user_agent = user_agent
        self._open_session = open_session
        self._log_limit = log_limit
        self._clock = clock
        self._intervals = Backoff(
            lambda: 0.5 + random() / 2, first_seconds=INTERVAL_FIRST_SECONDS, most_seconds=INTERVAL_MOST_SECONDS
        )
        self._began = clock()
        self._logged = False
        self._longer = 0.0
        self.problem: str | None = "the API server has not responded yet"
        """Why there is no contact, in one line with the next action; None while there is contact."""

    async def made(self) -> None:
        """Return after the API server's first response. Raises no error of the API server or the network."""
        async with self._unpooled_client() as client:
            await self._wait_for_response(client)
        if self._logged:
            log.info("the API server responds", extra={"seconds": round(self._clock() - self._began, 1)})

    async def first_lists(self, client: Client, informers: Collection[Informer[Any]]) -> None:
        """Return after the first list of each of the running *informers* is complete.

        During the wait, requests continue. When the API server has recovered from an outage, all connections of
        *client* are closed and the incomplete lists start again, so that no list waits for a lost response.
        """
        requests = asyncio.create_task(self._send_requests(client, informers), name="ask the API server")
        lists = asyncio.create_task(_all_synced(informers), name="wait for the first lists")
        try:
            await asyncio.wait({requests, lists}, return_when=asyncio.FIRST_COMPLETED)
            if not lists.done():
                await requests  # it ends only with a defect
        finally:
            requests.cancel()
            lists.cancel()
            await asyncio.gather(requests, lists, return_exceptions=True)
        self.problem = None

    async def _send_requests(self, client: Client, informers: Collection[Informer[Any]]) -> None:
        async with self._unpooled_client() as unpooled:
            while True:
                await asyncio.sleep(self._intervals.next())
                if await self._wait_for_response(unpooled):
                    for informer in informers:
                        informer.list_again()
                    await client.aclose()

    async def _wait_for_response(self, client: Client) -> bool:
        """Send requests until the API server responds. Return whether earlier requests may be lost.

        At most two requests are in progress: the oldest and the newest.
        """
        oldest: asyncio.Task[bool] | None = None
        newest: asyncio.Task[bool] | None = None
        lost = False
        loop = asyncio.get_running_loop()
        try:
            while True:
                newest = asyncio.create_task(self._request_once(client), name="ask the API server once")
                self._longer = 0.0
                end = loop.time() + self._intervals.next()
                pending = {request for request in (oldest, newest) if request is not None}
                while pending and (left := end - loop.time()) > 0:
                    done, pending = await asyncio.wait(pending, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                    if any(request.result() for request in done):
                        self.problem = None
                        self._intervals.reset()
                        return lost or (oldest is not None and not oldest.done())
                    lost = lost or bool(done)
                    end += self._longer  # Retry-After of a 429
                    self._longer = 0.0
                if not newest.done():
                    self._failed(f"no response from {self._access.server} yet", _UNREACHABLE)
                # A slow API server may still respond to the oldest request, so the newer one gives way to the next.
                if oldest is None or oldest.done():
                    oldest = None if newest.done() else newest
                else:
                    newest.cancel()
                await asyncio.sleep(max(0.0, end - loop.time()))
        finally:
            for request in (oldest, newest):
                if request is not None:
                    request.cancel()
                    await asyncio.gather(request, return_exceptions=True)

    def _unpooled_client(self) -> Client:
        return Client(
            self._access, user_agent=self._user_agent, reuse_connections=False, open_session=self._open_session
        )

    async def _request_once(self, client: Client) -> bool:
        """Send one request and return whether the API server responds and accepts the credentials."""
        try:
            await client.request("GET", "/version", timeout_seconds=REQUEST_SECONDS)
        except Forbidden:
            return (
                True  # without permission to read the version; the lists report whether other permissions are missing
            )
        except Unauthorized as error:
            self._failed(str(error), "check the service account's token, or the user in the kubeconfig")
        except TooManyRequests as error:
            self._longer = min(error.retry_after or 0.0, RETRY_AFTER_MAX)
            self._failed(str(error), "it is overloaded; see its metrics")
        except NoResponse as error:
            self._failed(error.message, _UNREACHABLE)
        except ApiError as error:
            self._failed(str(error), "see the API server's log")
        except AccessError as error:
            self._failed(str(error), "")
        else:
            return True
        return False

    def _failed(self, reason: str, action: str) -> None:
        self.problem = f"no contact with the API server: {reason}" + (f"; {action}" if action else "")
        if self._log_limit.allows():
            self._logged = True
            log.warning(
                "no contact with the API server yet; correct the cause in the reason, a restart is not needed",
                extra={"reason": self.problem, "seconds": round(self._clock() - self._began, 1)},
            )


async def _all_synced(informers: Collection[Informer[Any]]) -> None:
    for informer in informers:
        await informer.synced()


_UNREACHABLE: Final = (
    "check that the API server runs, its address in the kubeconfig or the pod's environment, and this machine's network"
)
