"""Watches of a client that reads late."""

import pytest

from podidentity_sandbox.kubeapi.history import History
from podidentity_sandbox.kubeapi.kinds import Registry
from podidentity_sandbox.kubeapi.requests import Target, list_options
from podidentity_sandbox.kubeapi.watching import BACKLOG_MAX, Watch

MANY = BACKLOG_MAX + 1


def write(history: History, name: str) -> None:
    history.write("configmaps", ("default", name), {"metadata": {"name": name, "namespace": "default"}})


def watch(history: History, **query: str) -> Watch:
    target = Target(Registry().named("configmaps"), "default")
    return Watch(history, target, list_options(query), timeout_seconds=60.0, clock=lambda: 0.0)


async def received(opened: Watch, count: int) -> list[str]:
    """Return the names of the next *count* objects, or of fewer if the watch ends."""
    names: list[str] = []
    async for event in opened.events():
        names.append(event.item.document["metadata"]["name"])
        if len(names) == count:
            break
    return names


@pytest.mark.parametrize(
    "query",
    [{}, {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}, {"resourceVersion": "100"}],
    ids=["current objects", "initial events", "changes since a revision"],
)
async def test_all_initial_events_are_sent_and_later_ones_follow(query: dict[str, str]) -> None:
    history = History(keep=MANY)
    for number in range(MANY):
        write(history, f"c{number:05}")
    opened = watch(history, **query)
    write(history, "later")
    names = await received(opened, MANY + 1)
    assert len(names) == MANY + 1
    assert names[-1] == "later"


async def test_a_watch_that_is_too_far_behind_later_events_is_ended() -> None:
    history = History()
    write(history, "initial")
    opened = watch(history)
    for number in range(BACKLOG_MAX):
        write(history, f"c{number % 10}")
    assert await received(opened, 1) == ["initial"]
    behind = watch(history)
    for number in range(MANY):
        write(history, f"c{number % 10}")
    assert await received(behind, 1) == []
