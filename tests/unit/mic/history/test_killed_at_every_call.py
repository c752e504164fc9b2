"""MIC is killed before and after each of its calls in turn, and another MIC continues.

The scenario contains every kind of interrupted work: new, moved and deleted pods, a changed identity, an identity that
Azure refuses, one that another program attached, and a scale set with several nodes. One run is not interrupted, and
every other run must have the same result.
"""

import functools
import re
from collections.abc import Callable
from typing import Any, Final

import pytest

from tests.support.examples import every
from tests.support.mic.emulated_cloud import ASSIGNED
from tests.unit.mic.history.faults import Call, Moment
from tests.unit.mic.history.oracle import annotation
from tests.unit.mic.history.simulated_cluster import HOSTS, SimulatedCluster, spec_of

BETWEEN_SECONDS: Final = 2.0
SHARES: Final = 6
"""Number of tests among which the calls are divided; each test takes seconds."""

_GUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
"""MIC's object id, which each simulated Azure chooses."""


State = tuple[dict[str, tuple[Any, ...]], dict[str, list[str]]]


def _begin(simulated: SimulatedCluster) -> None:
    simulated.attach(HOSTS[0], "green")
    simulated.mark_bad("blue", "unauthorized")
    for name, resource in (("one", "red"), ("two", "green"), ("three", "blue")):
        simulated.put_identity("default", name, spec_of(resource))
    for name, identity, selector in (("b1", "one", "app"), ("b2", "two", "app"), ("b3", "three", "bad")):
        simulated.put_binding("default", name, identity, selector)
    simulated.put_pod("default", "web", "n0", "app")
    simulated.put_pod("team", "web", "n0", "bad")
    simulated.put_pod("c", "a-b", "s0", "app")
    simulated.put_pod("b-c", "a", "s1", "app")


SCENARIO: Final[tuple[Callable[[SimulatedCluster], None], ...]] = (
    _begin,
    lambda simulated: simulated.put_pod("default", "web", "flex0", "app"),
    lambda simulated: simulated.remove_pod("c", "a-b"),
    lambda simulated: simulated.put_identity("default", "one", spec_of("amber")),
    lambda simulated: simulated.remove_pod("b-c", "a"),
)


def play(kill_at: int, moment: Moment) -> tuple[State, list[Call]]:
    """Run the scenario with the process killed at one call (none if negative). Return the final state and the calls."""
    with SimulatedCluster(operation_seconds=0.5) as simulated:
        simulated.gate.kill_at, simulated.gate.kill_moment = kill_at, moment
        simulated.start_mic()
        for step in SCENARIO:
            step(simulated)
            _wait(simulated)
        _wait(simulated)
        simulated.converge()
        simulated.check_quiet()
        return _state(simulated), simulated.gate.calls


@functools.cache
def undisturbed() -> tuple[State, list[Call]]:
    """Return the final state and the calls of the scenario in which no process is killed."""
    return play(-1, Moment.BEFORE)


def _wait(simulated: SimulatedCluster) -> None:
    for _ in range(int(BETWEEN_SECONDS / 0.25)):
        simulated.pass_time(0.25)
        if simulated.mic is None:
            simulated.start_mic()
        simulated.check_now()


def _state(simulated: SimulatedCluster) -> State:
    objects = {
        f"{document['metadata']['namespace']}/{document['metadata']['name']}": (
            document["status"]["status"],
            document["spec"]["nodename"],
            document["spec"]["azureIdentityRef"]["spec"]["resourceID"],
            document["spec"]["azureBindingRef"]["metadata"]["name"],
            annotation(document, "attached-by"),
            _GUID.sub("…", annotation(document, "message")),
        )
        for document in simulated.store.list(ASSIGNED)
    }
    return objects, {host: sorted(simulated.arm.vm(host).user_assigned) for host in HOSTS}


def test_the_undisturbed_run_reaches_the_desired_state() -> None:
    (objects, hosts), _ = undisturbed()
    assert {name: about[0] for name, about in objects.items()} == {
        "default/web-default-one": "Assigned",
        "default/web-default-two": "Assigned",
        "default/web-team-three": "Created",
    }
    named = {host: [identity.rpartition("/")[2] for identity in there] for host, there in hosts.items()}
    assert named == {HOSTS[0]: ["green"], HOSTS[1]: ["amber", "green"], HOSTS[2]: []}


@pytest.mark.examples
@pytest.mark.parametrize("share", range(SHARES))
@pytest.mark.parametrize("moment", Moment, ids=["before", "after"])
def test_a_process_killed_at_any_call_leaves_nothing_that_the_next_does_not_repair(moment: Moment, share: int) -> None:
    expected, calls = undisturbed()
    assert len(calls) > 40
    for number in range(share * every(), len(calls), SHARES * every()):
        end, seen = play(number, moment)
        about = f"killed {moment}: call {number}, {seen[number].method} {seen[number].path}"
        assert end == expected, about
