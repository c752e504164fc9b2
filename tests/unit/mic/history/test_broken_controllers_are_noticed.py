"""The tests of this folder can fail: the random histories find each defect that is injected here into MIC."""

from collections.abc import Callable
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, Phase, Verbosity, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from mic.azure import identities, memory
from mic.azure.identities import HostIdentities
from mic.decisions import client_ids, completion, host_change, ownership, preparation, steps
from mic.decisions.identity_usage import HostView, IdentityUsage
from mic.reconciliation import host_reconciler, host_updater
from mic.reconciliation.work_queue import PassResult
from podidentity.resources import AzureIdentity, Pod
from tests.unit.mic.history.test_any_history import AnyHistory

Break = Callable[[pytest.MonkeyPatch], None]

EXAMPLES: Final = 400
"""The maximum number of examples; each defect is found with far fewer."""


def detaches_before_it_revokes(monkeypatch: pytest.MonkeyPatch) -> None:
    before = host_change.azure_change

    def eager(host_view: HostView, azure: HostIdentities, *rest: Any, **options: Any) -> Any:
        for usage in host_view.usages.values():
            if usage.needed == 0 and usage.owned > 0:
                usage.owned_terminating, usage.active = usage.owned_terminating + usage.owned, {}
        return before(host_view, azure, *rest, **options)

    async def late(_self: object, _key: str) -> PassResult:
        return PassResult()

    monkeypatch.setattr(host_change, "azure_change", eager)
    monkeypatch.setattr(preparation, "revocations", lambda _host_view: [])
    monkeypatch.setattr(host_reconciler.HostReconciler, "revoke", late)


def records_every_attachment_as_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    before = ownership.attached_by

    def greedy(*arguments: Any) -> str:
        return "mic" if before(*arguments) else ""

    monkeypatch.setattr(ownership, "attached_by", greedy)


def adds_without_a_record(monkeypatch: pytest.MonkeyPatch) -> None:
    before = preparation._creation

    def unrecorded(*arguments: Any, names: set[Any]) -> Any:
        step = before(*arguments, names=names)
        return step and steps.Create(step.desired, step.name, step.status, "")

    monkeypatch.setattr(preparation, "_creation", unrecorded)
    monkeypatch.setattr(IdentityUsage, "__getattribute__", _owned_when_needed)


def _owned_when_needed(usage: IdentityUsage, name: str) -> Any:
    value = object.__getattribute__(usage, name)
    return max(value, object.__getattribute__(usage, "needed")) if name == "owned" else value


def does_not_read_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    before = host_updater.HostUpdater._failed

    async def blind(
        self: host_updater.HostUpdater, host: Any, remembered: memory.HostMemory, change: Any, *rest: Any
    ) -> bool:
        again = await before(self, host, remembered, change, *rest)
        if remembered.identities is not None:
            attached = {text.lower(): identities.Attached(text) for text in change.adds}
            remembered.identities = HostIdentities(
                type=change.type, attached={**remembered.identities.attached, **attached}
            )
        return again

    monkeypatch.setattr(host_updater.HostUpdater, "_failed", blind)


def replaced(of: object, name: str, value: object) -> Break:
    return lambda monkeypatch: monkeypatch.setattr(of, name, value)


BREAKS: Final[dict[str, tuple[Break, int]]] = {
    "detaches_before_it_revokes": (detaches_before_it_revokes, 1),
    "records_every_attachment_as_its_own": (records_every_attachment_as_its_own, 4),
    "adds_without_a_record": (adds_without_a_record, 0),
    "does_not_read_after_a_failure": (does_not_read_after_a_failure, 5),
    "lets_go_before_the_detach": (replaced(completion, "_releasable", lambda *_: True), 5),
    "drops_the_system_assigned_identity": (replaced(HostIdentities, "system_assigned", False), 9),
    "counts_finished_pods": (replaced(Pod, "finished", False), 13),
    "ignores_namespaced_mode": (replaced(AzureIdentity, "namespaced", False), 12),
    "confirms_without_asking": (
        replaced(ownership, "is_ready", lambda _, attached_by, azure, *_rest: azure is not None and bool(attached_by)),
        0,
    ),
    "accepts_any_client_id": (replaced(client_ids, "mismatch", lambda *_: ""), 2),
}
"""Breaks with a seed of random histories that finds each in a second."""


@pytest.mark.parametrize(("broken", "number"), BREAKS.values(), ids=BREAKS)
def test_the_histories_notice_a_controller_that(broken: Break, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    class Histories(AnyHistory):
        pass

    broken(monkeypatch)
    with pytest.raises(AssertionError):
        run_state_machine_as_test(
            seed(number)(Histories),
            settings=settings(
                max_examples=EXAMPLES,
                stateful_step_count=30,
                deadline=None,
                database=None,
                phases=[Phase.generate],
                report_multiple_bugs=False,
                verbosity=Verbosity.quiet,
                suppress_health_check=list(HealthCheck),
            ),
        )
