"""The flights of the broker, by the token that they fetch."""

import asyncio
from collections import Counter
from itertools import islice
from typing import Final

from nmi.tokens.cache import RESOURCE_SHOWN, STATE_MAX, CachedToken, shown_identity
from nmi.tokens.flight import Flight
from nmi.tokens.source import FetchRequest, TokenKey

DRIFTING_MAX: Final = 32
"""Flights that may continue without waiters while IMDS returns 410. Cancelling more of them costs their pods a new
flight each."""


class Flights:
    """The running flights. Ends with aclose()."""

    def __init__(self) -> None:
        self._flights: dict[tuple[TokenKey, bool], Flight] = {}
        self.tasks: set[asyncio.Task[CachedToken]] = set()
        """The tasks that have not ended, including those of dropped flights."""

    def __len__(self) -> int:
        return len(self._flights)

    def find(self, request: FetchRequest) -> Flight | None:
        """Return the flight that *request* may join, or None. A flight that has just ended cannot be joined."""
        flight = self._flights.get(_place(request))
        return flight if flight is not None and not flight.task.done() else None

    def add(self, request: FetchRequest, flight: Flight) -> None:
        """Let requests join *flight* until it ends."""
        place = _place(request)
        self._flights[place] = flight
        self.tasks.add(flight.task)

        def ended(task: asyncio.Task[CachedToken]) -> None:
            self.tasks.discard(task)
            if self._flights.get(place) is flight:
                del self._flights[place]

        flight.task.add_done_callback(ended)

    def drop(self, flight: Flight) -> None:
        """Let no further request join *flight*, which is being cancelled."""
        for place, other in list(self._flights.items()):
            if other is flight:
                del self._flights[place]

    def cancel_pod(self, uid: str) -> None:
        """Cancel the flights whose token is for this pod only."""
        for place, flight in list(self._flights.items()):
            if place[0].pod == uid:
                flight.task.cancel()
                del self._flights[place]

    def let_drift(self, namespace: str) -> bool:
        """Return whether one more flight of *namespace* may continue without waiters.

        At the limit, end a flight of the namespace with the most of them in favour of one that has fewer.
        """
        drifting = Counter(each.namespace for each in self._flights.values() if each.drifting)
        if drifting.total() < DRIFTING_MAX:
            return True
        ((largest, most),) = drifting.most_common(1)
        unwanted = (each for each in self._flights.values() if each.drifting and each.namespace == largest)
        flight = next((each for each in unwanted if not each.waiters), None)
        if flight is None or drifting[namespace] + 1 >= most:
            return False
        flight.task.cancel()
        self.drop(flight)
        return True

    async def aclose(self) -> None:
        """Cancel every flight and wait until all have ended."""
        tasks = list(self.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def state(self, now: float) -> list[dict[str, object]]:
        """Return the state for /debug/state: JSON-able, at most STATE_MAX flights, client ids redacted."""
        return [
            {
                "identity": shown_identity(key),
                "resource": key.resource[:RESOURCE_SHOWN],
                "anew": force_refresh,
                "waiters": flight.waiters,
                "age_seconds": round(now - flight.begun),
            }
            for (key, force_refresh), flight in islice(self._flights.items(), STATE_MAX)
        ]


def _place(request: FetchRequest) -> tuple[TokenKey, bool]:
    return request.key.lasting, request.force_refresh
