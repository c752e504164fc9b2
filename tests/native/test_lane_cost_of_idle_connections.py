"""The cost of an iteration of the event loop does not depend on the number of idle connections.

The test compares the shortest of many iterations, which does not depend on the machine's load.
"""

import time
from typing import Final

from _native.lane import Limits
from tests.native.serving import REQUEST, Serving, serving

IDLE: Final = 2000
ITERATIONS: Final = 200


def least_ns(lane: Serving, data: bytes = b"") -> int:
    """Return the nanoseconds of the shortest iteration; each reads *data* from one of the connections."""
    least = 10**9
    with lane.connected() as sock:
        lane.iterate()
        for _ in range(ITERATIONS):
            if data:
                sock.send(data)
            begin = time.perf_counter_ns()
            lane.iterate()
            least = min(least, time.perf_counter_ns() - begin)
            if data:
                sock.recv(65536)
    lane.iterate()
    return least


async def test_the_cost_of_an_iteration_does_not_depend_on_the_number_of_idle_connections() -> None:
    async with serving(limits=Limits(connections=4096, connections_per_peer=4096)) as lane:
        empty, answering = least_ns(lane), least_ns(lane, REQUEST)
        sockets = []
        for _ in range(IDLE):
            sockets.append(lane.connected())
            lane.iterate()
        assert lane.count("open") == IDLE
        # A visit of each connection takes 2,000 times some ten nanoseconds.
        assert least_ns(lane) < 4 * empty + 5_000
        assert least_ns(lane, REQUEST) < 4 * answering + 5_000
        assert lane.count("fast_answers") == 2 * ITERATIONS
        for each in sockets:
            each.close()
