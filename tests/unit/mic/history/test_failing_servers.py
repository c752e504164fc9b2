"""MIC while the API server or Resource Manager fails, for one host or all: it neither floods a server nor the log,
respects Retry-After, continues its work afterwards, and a fault of one host delays no other."""

from typing import Any, Final

import pytest

from tests.support.objects import identity_id, set_id, vm_id
from tests.unit.mic.history.faults import Fault, Moment, Server
from tests.unit.mic.history.simulated_cluster import HOSTS, SimulatedCluster, spec_of

TROUBLE_SECONDS: Final = 30.0
CALLS_MOST: Final = 800
"""In that time, for five watches and the writes of a few objects: a busy loop makes many thousands."""
LINES_MOST: Final = 300
RETRY_AFTER_SECONDS: Final = 20
SDK_ATTEMPTS: Final = 4
"""Attempts of the SDK before it gives up, each at the permitted time."""


def started() -> SimulatedCluster:
    simulated = SimulatedCluster(operation_seconds=0.5)
    simulated.put_identity("default", "one", spec_of("red"))
    simulated.put_binding("default", "b1", "one", "app")
    simulated.start_mic()
    return simulated


def assigned(simulated: SimulatedCluster, host: str) -> bool:
    return identity_id("red").lower() in simulated.arm.vm(host).user_assigned


@pytest.mark.parametrize(
    ("server", "fault"),
    [
        *(("api", {"status": status, "code": "Conflict"}) for status in (409, 410, 500)),
        *(("arm", {"status": status, "code": "Conflict"}) for status in (409, 500)),
        ("api", {"status": 429, "retry_after": 1}),
        ("arm", {"status": 429, "retry_after": 2}),
        *((server, {"lost": Moment.BEFORE}) for server in ("api", "arm")),
        *((server, {"slow_seconds": 0.3}) for server in ("api", "arm")),
    ],
    ids=repr,
)
def test_a_failing_server_gets_few_requests_and_the_work_is_done_later(server: Server, fault: dict[str, Any]) -> None:
    with started() as simulated:
        simulated.put_pod("default", "stays", "n0", "app")
        simulated.put_pod("default", "goes", "s0", "app")
        simulated.converge()
        trouble = Fault(server, **fault, times=100_000)
        simulated.gate.faults.append(trouble)
        simulated.api.compact()
        simulated.api.drop_watches()
        lines = len(simulated.story)
        simulated.put_pod("default", "comes", "s0", "app")
        simulated.remove_pod("default", "goes")
        simulated.put_pod("default", "stays", "s1", "app")
        simulated.pass_time(TROUBLE_SECONDS)
        simulated.check_now()
        assert 0 < 100_000 - trouble.times < CALLS_MOST
        assert len([line for line in simulated.story[lines:] if "  log: " in line]) < LINES_MOST
        simulated.gate.clear()
        simulated.converge()
        assert [assigned(simulated, host) for host in (vm_id("n0"), set_id())] == [False, True]


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 429, "retry_after": RETRY_AFTER_SECONDS, "writes": True},
        {"status": 429, "retry_after": RETRY_AFTER_SECONDS, "writes": False},
        {"status": 500},
        {"slow_seconds": 60.0, "writes": True},
    ],
    ids=["throttled write", "throttled read", "outage", "slow"],
)
def test_a_fault_of_one_scale_set_delays_no_vm(fault: dict[str, Any]) -> None:
    with started() as simulated:
        simulated.gate.faults.append(Fault("arm", **fault, times=3, host="/pool"))
        simulated.put_pod("default", "slow", "s0", "app")
        simulated.pass_time(0.3)
        simulated.put_pod("default", "fast", "n0", "app")
        simulated.pass_time(3.0)
        assert [assigned(simulated, host) for host in (vm_id("n0"), set_id())] == [True, False]
        simulated.converge()


@pytest.mark.parametrize("refused", [1, SDK_ATTEMPTS, SDK_ATTEMPTS + 1])
def test_a_throttled_read_after_an_update_is_not_repeated_before_its_time(refused: int) -> None:
    with started() as simulated:
        simulated.put_pod("default", "web", "n0", "app")
        throttled = Fault(
            "arm", status=429, retry_after=RETRY_AFTER_SECONDS, writes=False, times=refused, host=HOSTS[0]
        )
        simulated.before_next_update(lambda: simulated.gate.faults.append(throttled))
        simulated.converge()
        simulated.check_quiet()
        assert throttled.times == 0
        assert [call for call in simulated.gate.calls if call.server == "arm" and call.writes] != []
