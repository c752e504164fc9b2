"""The identities that Azure's error messages (recorded from Azure) name as the cause. Passes in which the API server
rejects writes or stores unexpected objects, or an exception is unexpected.
"""

import logging
from pathlib import Path
from typing import Any

import pytest
from azure.core.exceptions import ClientAuthenticationError, HttpResponseError, ServiceRequestError

from mic.azure.errors import (
    OUTCOMES,
    AzureError,
    BadIdentities,
    HostNotFound,
    Refused,
    SignInFailed,
    Throttled,
    Unreachable,
    UpdateConflict,
    outcome_of,
    translated,
)
from mic.azure.identities import GONE
from mic.decisions import completion, documents, preparation
from mic.decisions.assignments import DesiredAssignment, ExistingAssignment
from mic.metrics import FAULTS
from mic.reconciliation.events import advice, refusal
from mic.reconciliation.host_reconciler import REFUSED_SECONDS
from mic.reconciliation.left_out import FAULT_SECONDS
from mic.reconciliation.work_queue import PassResult
from podidentity.azure.resource_ids import parse_provider_id
from podidentity.resources import ASSIGNED_IDENTITIES
from podidentity.telemetry.metrics import expose
from tests.support.mic.world import ASSIGNED, VM, MicWorld
from tests.support.objects import binding, identity, identity_id, pod, vm_id

SCOPE = "no permission on the linked scope"
ASSIGN = "no permission for 'Microsoft.ManagedIdentity/userAssignedIdentities/assign/action' on"


class Response:
    """The part of an HTTP response that an SDK error keeps."""

    reason = "because"

    def __init__(self, status: int, text: str, headers: dict[str, str] | None = None) -> None:
        self.status_code = status
        self.headers = headers or {}
        self._text = text

    def text(self, *_: Any) -> str:
        return self._text


def error_of(status: int, code: str = "", message: str = "", **headers: str) -> AzureError:
    text = '{"error":{"code":"%s","message":"%s"}}' % (code, message)  # noqa: UP031  braces all over
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    response: Any = Response(status, text, sent)
    return translated(HttpResponseError(response=response))


@pytest.mark.parametrize(
    ("status", "code", "message", "kind", "ids"),
    [
        pytest.param(
            403,
            "LinkedAuthorizationFailed",
            f"{SCOPE}(s) '{identity_id('one')},{identity_id('Two')}' or invalid.",
            BadIdentities,
            {"one", "two"},
            id="all scopes of a linked authorization failure",
        ),
        pytest.param(
            400,
            "FailedIdentityOperation",
            f"Identity operation failed: Resource '{identity_id('gone')}' was not found.",
            BadIdentities,
            {"gone"},
            id="the scope in a doubly wrapped message",
        ),
        pytest.param(403, "LinkedAuthorizationFailed", SCOPE, Refused, None, id="a refusal without an identity"),
        pytest.param(400, "FailedIdentityOperation", "went wrong", BadIdentities, set(), id="an operation's failure"),
        pytest.param(
            403,
            "LinkedAuthorizationFailed",
            f"{ASSIGN} '{identity_id('x')}'y'",
            BadIdentities,
            {"x"},
            id="an unreadable identity",
        ),
        pytest.param(
            400, "InvalidParameter", f"about {identity_id('one')}", Refused, None, id="an id in any other error"
        ),
        pytest.param(404, "Code", "", HostNotFound, None, id="404"),
        pytest.param(409, "Code", "", UpdateConflict, None, id="409"),
        pytest.param(412, "Code", "", UpdateConflict, None, id="412"),
        pytest.param(429, "Code", "", Throttled, None, id="429"),
        pytest.param(403, "Code", "", Refused, None, id="403"),
        pytest.param(500, "Code", "", AzureError, None, id="500"),
    ],
)
def test_each_failure_has_its_class_and_names_the_identities_that_caused_it(
    status: int, code: str, message: str, kind: type[AzureError], ids: set[str] | None
) -> None:
    error = error_of(status, code, message)
    assert type(error) is kind
    if isinstance(error, BadIdentities):
        assert error.ids == {identity_id(name).lower() for name in ids or ()}


def test_a_failed_sign_in_does_not_concern_the_requested_operation() -> None:
    response: Any = Response(400, '{"error":"invalid_client","error_description":"the secret has expired"}')
    error = translated(ClientAuthenticationError("the secret has expired", response=response))
    assert isinstance(error, SignInFailed)
    assert "the secret has expired" in error.message
    assert isinstance(translated(ClientAuthenticationError("no IMDS here")), SignInFailed)


def test_a_failed_sign_in_is_reported_without_the_client_id_and_with_the_facts_for_support() -> None:
    client, trace = "11112222-3333-4444-5555-666677778888", "99990000-aaaa-bbbb-cccc-ddddeeeeffff"
    text = f"AADSTS7000215: Invalid client secret provided for a secret added to app '{client}'. Trace ID: {trace}"
    message = translated(ClientAuthenticationError(text)).message
    assert client not in message
    assert "'1111…8888'" in message
    assert trace in message


def test_every_outcome_has_a_name() -> None:
    failures = [error_of(status) for status in (404, 409, 429, 400, 500)]
    outcomes = [outcome_of(error) for error in [None, *failures, translated(TimeoutError())]]
    assert outcomes == ["ok", "not_found", "conflict", "throttled", "refused", "failed", "unreachable"]
    assert set(outcomes) == set(OUTCOMES)


def test_throttling_contains_the_retry_after() -> None:
    assert error_of(429, Retry_After="17").retry_after == 17.0
    assert error_of(429, Retry_After="Wed, 21 Oct 2026 07:28:00 GMT").retry_after is None


def test_a_failure_without_a_response_is_unreachable() -> None:
    assert isinstance(translated(ServiceRequestError("refused")), Unreachable)
    assert isinstance(translated(TimeoutError()), Unreachable)


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [(502, "<html>bad gateway</html>", AzureError), (400, '{"error":' + "[" * 60_000, Refused)],
    ids=["not JSON", "nested too deeply"],
)
def test_an_unreadable_response_is_still_classified(status: int, body: str, kind: type[AzureError]) -> None:
    response: Any = Response(status, body)
    assert type(translated(HttpResponseError("because", response=response))) is kind


async def test_an_api_server_that_rejects_writes_is_retried_later(world: MicWorld) -> None:
    world.bind()

    world.api.refuse(500, "InternalError", "POST")
    assert (await world.reconcile()).failed
    assert "update" not in world.hosts.calls, "no record, no change"
    page = expose(world.registry).decode()
    assert (
        'aadpodidentity_kubernetes_api_operations_errors_count{operation_type="assigned_identity_addition"} 1.0' in page
    )
    world.api.intercept = None
    assert await world.reconcile() == PassResult()
    assert world.statuses() == {"demo-default-demo": "Assigned"}


@pytest.mark.parametrize("status", [403, 422, 500])
async def test_an_object_that_the_api_server_rejects_blocks_no_other(world: MicWorld, status: int) -> None:
    await world.assign()
    world.unbind()
    world.bind("fine")
    bound = binding("over-quota", namespace="team", identity="over-quota", selector="team")
    world.add(identity("over-quota", namespace="team", namespaced=True), bound)
    world.add(pod("web", namespace="team", label="team"))

    world.api.refuse(status, "No", "POST", what="/namespaces/team/azureassigned")
    done = await world.reconcile()
    assert world.statuses() == {"fine-default-fine": "Assigned"}
    assert {key.rpartition("/")[2] for key in world.hosts.state.attached} == {"fine"}
    if status == 500:
        assert done.failed
    else:
        assert done == PassResult(again_after=REFUSED_SECONDS), (
            "not failed, which would hold back the host's other events"
        )
        reported = {event["involvedObject"]["name"] for event in await world.warnings()}
        assert reported == {"over-quota", "web"}, "the binding and the pod"


async def test_an_object_that_the_watch_has_not_reported_is_found(world: MicWorld) -> None:
    await world.assign()
    stored = await world.client.get(ASSIGNED_IDENTITIES, "default", "demo-default-demo")
    world.view.assigned.deleted(stored)
    assert (await world.reconcile()).again_after is not None
    assert await world.reconcile() == PassResult()
    assert len(world.statuses()) == 1


async def test_an_object_deleted_by_another_writer_is_created_again(world: MicWorld) -> None:
    await world.assign()
    world.api.store.patch(ASSIGNED, "demo-default-demo", {"metadata": {"finalizers": None}}, "default")
    world.api.store.delete(ASSIGNED, "demo-default-demo", "default")
    world.add(pod("demo", label="demo", uid="second"))
    for _ in range(3):
        await world.reconcile()
    assert world.statuses() == {"demo-default-demo": "Assigned"}


async def test_an_unreadable_object_under_our_name_blocks_no_other(world: MicWorld) -> None:
    ref = {"apiVersion": "a/v1", "kind": "AzureIdentity", "metadata": {"name": "x"}, "spec": {"type": "zero"}}
    stranger = {"metadata": {"name": "demo-default-demo", "namespace": "default"}, "spec": {"azureIdentityRef": ref}}
    world.api.store.create(ASSIGNED, stranger | {"status": {"status": "Assigned"}})
    world.bind()
    world.bind("other")
    assert await world.reconcile() == PassResult(again_after=REFUSED_SECONDS)
    assert world.statuses() == {"demo-default-demo": "Assigned", "other-default-other": "Assigned"}
    assert await world.warned() == ["AzureIdentityBinding demo", "Pod demo"]


async def test_a_foreign_object_under_our_name_is_not_changed(world: MicWorld, tmp_path: Path) -> None:
    world.api.store.create(
        ASSIGNED,
        {
            "metadata": {"name": "demo-default-demo", "namespace": "default"},
            "spec": {
                "pod": "other",
                "podNamespace": "else",
                "nodename": "elsewhere",
                "azureIdentityRef": {"apiVersion": "a/v1", "kind": "AzureIdentity", "metadata": {"name": "x"}},
                "azureBindingRef": {"apiVersion": "a/v1", "kind": "AzureIdentityBinding", "metadata": {"name": "x"}},
            },
            "status": {"status": "Assigned"},
        },
    )
    world.bind()
    for _ in range(3):
        await world.reconcile()
    assert len(world.statuses()) == 2
    assert world.api.store.get(ASSIGNED, "demo-default-demo", "default")["spec"]["pod"] == "other"


class OddError(Exception):
    """An exception that no code of this project raises."""


def faults(world: MicWorld) -> dict[str, float]:
    value = world.registry.get_sample_value
    return {fault: value("aadpodidentity_mic_faults_total", {"where": fault}) or 0.0 for fault in FAULTS}


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
    (line,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert (line.resource, line.exc_info is not None) == ("default/bad", True)  # type: ignore[attr-defined]


@pytest.mark.usefixtures("unplannable")
async def test_a_failure_without_a_host_is_left_out_and_counted_too(world: MicWorld) -> None:
    world.add(identity(type_=1), binding(), pod("bad"), pod("web"))
    done = await world.host_reconciler.assign(vm_id("n0").lower())
    assert world.statuses() == {"web-default-demo": "Assigned"}
    assert done == PassResult(again_after=FAULT_SECONDS)


async def test_a_write_that_fails_is_left_out_and_counted(world: MicWorld, monkeypatch: pytest.MonkeyPatch) -> None:
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


CALLER = "0b1ec7ed-0000-4000-8000-00000000000a"


def test_a_missing_role_is_a_command_with_the_refused_caller() -> None:
    host = parse_provider_id(
        "azure:///subscriptions/s/resourceGroups/nodes/providers/Microsoft.Compute/virtualMachines/vm"
    )
    assert host is not None
    message = f"The client 'app' with object id '{CALLER}' does not have authorization to perform action 'x/read'."
    text = refusal(host, error_of(403, "AuthorizationFailed", message))
    assert (
        f"az role assignment create --role 'Virtual Machine Contributor' --assignee-object-id {CALLER} "
        "--assignee-principal-type ServicePrincipal --scope /subscriptions/s/resourceGroups/nodes; "
    ) in text
    assert "check its credentials and its role there" in refusal(host, error_of(403, "AuthorizationFailed", "no"))
    denied = refusal(host, error_of(403, "DenyAssignmentAuthorizationFailed", message))
    assert "check its credentials and its role there" in denied, "no role helps against a deny assignment"
    linked = f"The client with object id '{CALLER}' has permission; however, not on '{identity_id('one')}'"
    assert advice(identity_id("one"), error_of(403, "LinkedAuthorizationFailed", linked)).endswith(
        f"--assignee-object-id {CALLER} --assignee-principal-type ServicePrincipal --scope {identity_id('one')} "
        "(LinkedAuthorizationFailed)"
    )
    assert "grant it the role Managed Identity Operator" in advice(
        identity_id("one"), error_of(403, "LinkedAuthorizationFailed", "no")
    )
