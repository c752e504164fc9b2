"""An unexpected exception for one pod does not affect others on the same host."""

import logging
from typing import Any

import pytest

from mic.azure.identities import GONE
from mic.decisions import completion, documents, preparation
from mic.decisions.assignments import DesiredAssignment, ExistingAssignment
from mic.metrics import FAULTS
from mic.reconciliation.left_out import FAULT_SECONDS
from mic.reconciliation.work_queue import PassResult
from tests.support.mic import VM, MicWorld
from tests.support.objects import binding, identity, pod, vm_id


class OddError(Exception):
    """An exception that no code of this project raises."""


def faults(world: MicWorld) -> dict[str, float]:
    value = world.registry.get_sample_value
    return {each: value("aadpodidentity_mic_faults_total", {"where": each}) or 0.0 for each in FAULTS}


@pytest.fixture
def unplannable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planning for the pod `bad` fails."""
    real = preparation._keeper

    def keeper(desired: DesiredAssignment, active: tuple[ExistingAssignment, ...]) -> ExistingAssignment | None:
        if desired.pod.metadata.name == "bad":
            raise OddError
        return real(desired, active)

    monkeypatch.setattr(preparation, "_keeper", keeper)


@pytest.mark.usefixtures("unplannable")
async def test_a_pod_whose_plan_fails_is_left_out_and_counted(
    world: MicWorld, caplog: pytest.LogCaptureFixture
) -> None:
    world.bind()
    world.add(pod("bad"))
    done = await world.host_reconciler.reconcile(vm_id("n0").lower())
    assert world.statuses() == {"demo-default-demo": "Assigned"}
    assert done.again_after is not None
    assert done.again_after >= FAULT_SECONDS
    assert not done.failed
    assert faults(world) == {"plan": 1.0, "write": 0.0, "pass": 0.0}
    (line,) = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert (line.resource, line.exc_info is not None) == ("default/bad", True)  # type: ignore[attr-defined]


@pytest.mark.usefixtures("unplannable")
async def test_a_failure_without_a_host_is_left_out_and_counted_too(world: MicWorld) -> None:
    world.add(identity(type_=1))
    world.add(binding())
    for name in ("bad", "web"):
        world.add(pod(name))
    done = await world.host_reconciler.assign(vm_id("n0").lower())
    assert world.statuses() == {"web-default-demo": "Assigned"}
    assert done == PassResult(again_after=FAULT_SECONDS)


async def test_a_write_that_fails_unexpectedly_is_left_out_and_counted(
    world: MicWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = documents.new_document

    def new_document(desired: DesiredAssignment, *more: Any) -> documents.Document:
        if desired.pod.metadata.name == "bad":
            raise OddError
        return real(desired, *more)

    monkeypatch.setattr(documents, "new_document", new_document)
    world.bind()
    world.add(pod("bad"))
    done = await world.host_reconciler.reconcile(vm_id("n0").lower())
    assert world.statuses() == {"demo-default-demo": "Assigned"}
    assert done.again_after is not None
    assert not done.failed
    assert faults(world)["write"] == 1.0


async def test_an_object_whose_release_fails_is_released_later_and_blocks_nothing(
    world: MicWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = completion._releasable

    def releasable(existing: ExistingAssignment, *more: Any) -> bool:
        if existing.assignment_key.pod == "bad":
            raise OddError
        return real(existing, *more)

    await world.settle_with(identity(), binding(), pod(), pod("bad"))
    world.remove(pod(), pod("bad"))
    for key in world.objects:
        world.delete(key)
    monkeypatch.setattr(completion, "_releasable", releasable)
    noted: list[object] = []
    steps = completion.finish(
        world.view.host_state(VM), GONE, world.policy, on_fault=lambda about, _error: noted.append(about)
    )
    assert [step.existing.assignment_key.pod for step in steps] == ["web"]
    assert noted == [("default", "bad-default-demo")]
