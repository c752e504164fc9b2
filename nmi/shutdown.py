"""NMI's orderly stop, with or without another NMI that serves the node next.

NMI keeps the rule and serves new requests until the open ones are answered. Then it removes the rule, so that no new
connection arrives, and completes the rest.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, Never

from nmi.node.rules import RedirectError
from nmi.node.traffic_redirect import TrafficRedirect
from nmi.service import Serving
from podidentity.exits import StartError

log = logging.getLogger(__name__)

REMOVE_SECONDS: Final = 5.0
"""How long the stop waits for the xtables lock. The rest of a pod's grace period (30 s) is for the drain."""
SUCCESSOR_SECONDS: Final = 15.0
"""How long the stop waits for a successor that synchronises. With the drain (10 s, and 0.5 s for last responses) this
is less than a pod's grace period (30 s); NMI then removes no rule, which could take 2 * REMOVE_SECONDS more.
"""
REGISTRATION_SECONDS: Final = 3.0
"""How long a stop without a successor waits for one that has started and is not registered yet. Requests are served in
this time. It is a part of SUCCESSOR_SECONDS.
"""
LAST_ACCEPT_SECONDS: Final = 0.02
"""After the jump's removal, how long NMI accepts the connections that the kernel has queued: closing the listener would
reset them.
"""


class Stopped(Exception):  # noqa: N818  not an error
    """Ends the root task group after an orderly stop."""


class Shutdown:
    """The stop of one NMI. Without `serving`, which the caller sets during the start, there is nothing to complete."""

    def __init__(self, redirect: TrafficRedirect, drain_seconds: float) -> None:
        self._redirect = redirect
        self._drain_seconds = drain_seconds
        self._keeps_redirect = False
        self.serving: Serving | None = None

    async def run(self, stop: asyncio.Event) -> Never:
        """Wait for *stop*, stop in order, and raise Stopped.

        Serve, also new requests, until a successor serves or the open ones are answered; then complete the rest.

        Without the jump, requests reach the real IMDS, so it goes as late as possible. The rest of the rule goes last,
        because responses need it.
        """
        await stop.wait()
        log.info("nmi stopping; it completes open requests and then removes the redirect unless configured otherwise")
        if self.serving is not None:
            service = self.serving.service
            seconds = await self._complete_requests(self.serving, self._drain_seconds)
            await service.stop_maintaining()
            if not self._keeps_redirect:
                await self._leave_redirect(self._redirect.withdraw)
            if service.server is not None:
                await asyncio.sleep(LAST_ACCEPT_SECONDS)
                service.stop_accepting()
                seconds = await self._pass_connections(self.serving, seconds)
                await service.server.drain(seconds)
        raise Stopped

    async def _complete_requests(self, serving: Serving, seconds: float) -> float:
        """Return the remaining part of *seconds* once the requests that are open now are answered.

        Decide whether the redirect stays: it does if another NMI serves this node, or will soon.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + SUCCESSOR_SECONDS
        service, takeover, handover = serving
        if handover is not None and service.active:
            await handover.wait_for_registration(REGISTRATION_SECONDS)
            if handover.registered:
                log.info("nmi serves until its successor is ready", extra={"seconds": SUCCESSOR_SECONDS})
            await handover.settle(until - loop.time())
        former = takeover.predecessor
        given_back = False
        if service.active and former is not None:
            # The former NMI removes these rules if it uses another backend, and they must not be restored.
            await service.stop_maintaining()
            given_back = await former.give_back()
            if not given_back:
                service.maintain()
        if given_back:
            log.info("the former NMI serves this node again")
        elif not service.active and takeover.waits:
            self._keeps_redirect = True  # the one that serves owns it
        service.active = False
        if service.server is not None:
            seconds = await service.server.complete_open_requests(seconds)
        if handover is not None:
            await handover.settle(until - loop.time())
            self._keeps_redirect = self._keeps_redirect or given_back or handover.registered or handover.retired
            await handover.refuse()
        return seconds

    async def _pass_connections(self, serving: Serving, seconds: float) -> float:
        """Pass every connection to the NMI that serves this node, if one does.

        Return the remaining part of *seconds*.
        """
        service, takeover, handover = serving
        former = takeover.predecessor
        if handover is not None and handover.retired:
            if former is not None:
                former.close()  # an NMI before this one passes no further connections to it
            return await handover.pass_connections(lambda: service.open_connections, seconds)
        if former is not None:
            return await former.return_connections(lambda: service.open_connections, seconds)
        return seconds

    async def remove_redirect(self) -> None:
        """Remove the rest of the redirect after `run`, unless another NMI serves this node."""
        if not self._keeps_redirect:
            await self._leave_redirect(self._redirect.remove)

    async def _leave_redirect(self, step: Callable[[], Awaitable[None]]) -> None:
        try:
            async with asyncio.timeout(REMOVE_SECONDS):
                await step()
        except (TimeoutError, RedirectError, StartError) as error:
            log.error(  # noqa: TRY400  the message is complete
                "the redirect could not be removed; run `nmi --cleanup` on this node", extra={"error": str(error)}
            )
