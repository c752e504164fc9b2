"""Azure accepts an update and then throttles reads of the host: MIC waits for Retry-After."""

from typing import Final

import pytest

from tests.mic.history.faults import Fault
from tests.mic.history.simulated_cluster import HOSTS, SimulatedCluster
from tests.support.objects import identity_id

RETRY_AFTER_SECONDS: Final = 20
AT_ONCE: Final = 4
"""Attempts of the SDK before it gives up, each at the permitted time."""


@pytest.mark.parametrize("refused", [1, AT_ONCE, AT_ONCE + 1])
def test_a_throttled_read_after_an_update_is_not_repeated_before_its_time(refused: int) -> None:
    with SimulatedCluster(operation_seconds=0.5) as simulated:
        _ask_for_one(simulated)
        throttled = Fault(
            "arm", status=429, retry_after=RETRY_AFTER_SECONDS, writes=False, times=refused, host=HOSTS[0]
        )
        simulated.before_next_update(lambda: simulated.gate.faults.append(throttled))
        simulated.start_mic()
        simulated.converge()
        simulated.check_quiet()
        assert throttled.times == 0
        assert [call for call in simulated.gate.calls if call.server == "arm" and call.writes] != []


def _ask_for_one(simulated: SimulatedCluster) -> None:
    simulated.put_identity("default", "one", {"type": 0, "resourceID": identity_id("red"), "clientID": "client-red"})
    simulated.put_binding("default", "b1", "one", "app")
    simulated.put_pod("default", "web", "n0", "app")
