"""MIC is killed at each of its calls in turn, before the call arrives and after it took effect; another one goes on.

One scenario has all that leaves something half done: pods that come, move and go, an identity that changes, one that
Azure refuses, one that somebody else put there, and a scale set whose nodes share. It is run once undisturbed, and the
end of that is the end of every other run.
"""

import functools
from collections.abc import Callable
from typing import Any, Final

import pytest

from tests.mic.cluster import identity_id
from tests.mic.history.faults import Call, Moment
from tests.mic.history.oracle import annotation
from tests.mic.history.world import HOSTS, World
from tests.mic.little_cloud import ASSIGNED

BETWEEN_SECONDS: Final = 2.0
SHARES: Final = 6
"""Number of tests among which the calls are divided; each test takes seconds."""

State = tuple[dict[str, tuple[Any, ...]], dict[str, list[str]]]


def _identity(world: World, name: str, resource: str) -> None:
    world.put_identity(
        "default", name, {"type": 0, "resourceID": identity_id(resource), "clientID": f"client-{resource}"}
    )


def _begin(world: World) -> None:
    world.attach(HOSTS[0], "green")
    world.mark_bad("blue", "unauthorized")
    for name, resource in (("one", "red"), ("two", "green"), ("three", "blue")):
        _identity(world, name, resource)
    for name, identity, selector in (("b1", "one", "app"), ("b2", "two", "app"), ("b3", "three", "bad")):
        world.put_binding("default", name, identity, selector)
    world.put_pod("default", "web", "n0", "app")
    world.put_pod("team", "web", "n0", "bad")
    world.put_pod("c", "a-b", "s0", "app")
    world.put_pod("b-c", "a", "s1", "app")


def _move(world: World) -> None:
    world.put_pod("default", "web", "flex0", "app")


def _leave(world: World) -> None:
    world.remove_pod("c", "a-b")


def _change(world: World) -> None:
    _identity(world, "one", "amber")


def _empty_the_set(world: World) -> None:
    world.remove_pod("b-c", "a")


SCENARIO: Final[tuple[Callable[[World], None], ...]] = (_begin, _move, _leave, _change, _empty_the_set)


def play(kill_at: int, moment: Moment) -> tuple[State, list[Call]]:
    """Run the scenario with the process killed at one call (none if negative). Return the final state and the calls."""
    with World(operation_seconds=0.5) as world:
        world.gate.kill_at, world.gate.kill_moment = kill_at, moment
        world.start_mic()
        for step in SCENARIO:
            step(world)
            _wait(world)
        _wait(world)
        world.converge()
        world.check_quiet()
        return _state(world), world.gate.calls


@functools.cache
def undisturbed() -> tuple[State, list[Call]]:
    """Return the final state and the calls of the scenario in which no process is killed."""
    return play(-1, Moment.BEFORE)


def _wait(world: World) -> None:
    for _ in range(int(BETWEEN_SECONDS / 0.25)):
        world.pass_time(0.25)
        if world.mic is None:
            world.start_mic()
        world.check_now()


def _state(world: World) -> State:
    objects = {
        f"{each['metadata']['namespace']}/{each['metadata']['name']}": (
            each["status"]["status"],
            each["spec"]["nodename"],
            each["spec"]["azureIdentityRef"]["spec"]["resourceID"],
            each["spec"]["azureBindingRef"]["metadata"]["name"],
            annotation(each, "attached-by"),
            annotation(each, "message"),
        )
        for each in world.store.list(ASSIGNED)
    }
    return objects, {host: sorted(world.arm.vm(host).user_assigned) for host in HOSTS}


def test_the_undisturbed_run_reaches_the_desired_state() -> None:
    (objects, hosts), _ = undisturbed()
    assert {name: about[0] for name, about in objects.items()} == {
        "default/web-default-one": "Assigned",
        "default/web-default-two": "Assigned",
        "default/web-team-three": "Created",
    }
    named = {host: [each.rpartition("/")[2] for each in there] for host, there in hosts.items()}
    assert named == {HOSTS[0]: ["green"], HOSTS[1]: ["amber", "green"], HOSTS[2]: []}


@pytest.mark.parametrize("share", range(SHARES))
@pytest.mark.parametrize("moment", Moment, ids=["before", "after"])
def test_a_process_killed_at_any_call_leaves_nothing_that_the_next_one_does_not_repair(
    moment: Moment, share: int
) -> None:
    expected, calls = undisturbed()
    assert len(calls) > 40
    for number in range(share, len(calls), SHARES):
        end, seen = play(number, moment)
        about = f"killed {moment}: call {number}, {seen[number].method} {seen[number].path}"
        assert end == expected, about
