"""The hosts that get a reconcile pass, and when: soon after an event, and all hosts once in an interval."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from mic.cluster.view import ClusterView
from mic.reconciliation.controller import Controller
from mic.reconciliation.work_queue import PassResult
from tests.support.objects import binding, identity, identity_id, node, pod, vm_id


class HostPasses:
    """Records its calls."""

    def __init__(self) -> None:
        self.reconcile_until_in_sync: list[str] = []
        self.revoked: list[str] = []
        self.assigned: list[str] = []
        self.looks: list[str] = []
        self.refused: dict[str, list[str]] = {}
        self._news = asyncio.Condition()

    async def reconcile(self, key: str) -> PassResult:
        self.reconcile_until_in_sync.append(key)
        async with self._news:
            self._news.notify_all()
        return PassResult()

    async def revoke(self, key: str) -> PassResult:
        self.revoked.append(key)
        return PassResult()

    async def assign(self, key: str) -> PassResult:
        self.assigned.append(key)
        return PassResult()

    def look_again(self, key: str) -> None:
        self.looks.append(key)

    def retry_identity(self, identity_key: str) -> list[str]:
        return self.refused.pop(identity_key, [])

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(5.0), self._news:
            await self._news.wait_for(holds)


def a_pod_on(view: ClusterView, *nodes: str) -> list[str]:
    """One bound pod on each node; the keys of the nodes' hosts."""
    view.identities.upserted(None, identity())
    view.bindings.upserted(None, binding())
    for name in nodes:
        view.nodes.upserted(None, node(name))
        view.pods.upserted(None, pod(f"on-{name}", node=name))
    return [vm_id(name).lower() for name in nodes]


@asynccontextmanager
async def running(controller: Controller) -> AsyncIterator[None]:
    task = asyncio.create_task(controller.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_an_event_causes_a_reconcile_pass_of_its_host_alone_and_the_writes_next_to_it() -> None:
    rounds = HostPasses()
    recorded: list[str] = []
    view = ClusterView(on_dirty=recorded.append)
    controller = Controller(view, rounds, look_seconds=600.0, resync_seconds=600.0)
    async with running(controller):
        assert a_pod_on(view, "n0") == [vm_id("n0").lower()]
        view.nodes.upserted(None, node("n1"))
        for key in recorded:
            controller.dirty(key)
        await rounds.until(lambda: bool(rounds.reconcile_until_in_sync))
    assert rounds.reconcile_until_in_sync == [vm_id("n0").lower()]
    assert set(rounds.revoked) == set(rounds.assigned) == {vm_id("n0").lower()}
    assert rounds.looks == []


async def test_every_host_with_identities_is_compared_with_azure_once_per_interval() -> None:
    rounds, view = HostPasses(), ClusterView()
    keys = a_pod_on(view, "n0", "n1")
    view.nodes.upserted(None, node("idle"))
    async with running(Controller(view, rounds, look_seconds=0.3, resync_seconds=600.0)):
        await rounds.until(lambda: len(rounds.reconcile_until_in_sync) >= 4)
    assert rounds.looks[:4] == keys * 2


async def test_a_resync_causes_a_reconcile_pass_for_each_unfinished_host() -> None:
    rounds, view = HostPasses(), ClusterView()
    (key,) = a_pod_on(view, "n0")
    async with running(Controller(view, rounds, look_seconds=600.0, resync_seconds=0.05)):
        await rounds.until(lambda: rounds.reconcile_until_in_sync == [key, key])
    assert rounds.looks == []


async def test_a_changed_identity_causes_a_reconcile_pass_where_it_was_refused() -> None:
    rounds, view = HostPasses(), ClusterView()
    rounds.refused[identity_id("demo").lower()] = ["host"]
    controller = Controller(view, rounds, look_seconds=600.0, resync_seconds=600.0)
    async with running(controller):
        controller.identity_changed(identity())
        await rounds.until(lambda: rounds.reconcile_until_in_sync == ["host"])


async def test_the_controller_is_running_only_while_it_makes_reconcile_passes() -> None:
    rounds, states = HostPasses(), []
    controller = Controller(ClusterView(), rounds, look_seconds=600.0, resync_seconds=600.0)
    states.append(controller.running)
    async with running(controller):
        controller.dirty("anything")
        await rounds.until(lambda: bool(rounds.reconcile_until_in_sync))
        states.append(controller.running)
    states.append(controller.running)
    assert states == [False, True, False]
