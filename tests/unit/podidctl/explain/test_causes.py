"""Causes that explain and doctor name: why MIC creates no assignment, near misses of labels, refused credentials."""

import json
import shlex
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import msgspec
import pytest
from msgspec.structs import replace

from mic.azure.identities import Attached, HostIdentities, role_command
from nmi.error_refusals import refusal_of
from nmi.refusal import Reason
from podidctl.checks.assignments import action_in
from podidctl.facts.kinds import DatedPod, Event, PlacedNode
from podidctl.facts.model import ObjectReference, ReadFailure, RecentRefusal, ServerState
from podidctl.facts.workloads import CRON_JOBS, DEPLOYMENTS, JOBS, Owner, WorkloadObject
from podidctl.report.documents import LinkState, LoggedDecision, Outcome
from podidentity.azure.errors import Refused
from podidentity.azure.imds_responses import GUEST_PROXY
from podidentity.resources import BINDINGS, IDENTITIES, BareMeta, Pod, Resource
from tests.support.nmi_objects import NODE, assigned_identity, exception, identity, pod, resource_id
from tests.support.podidctl.doctor_inputs import examined, one
from tests.support.podidctl.prediction_inputs import broken, explain_pod, labelled, only

NOW = datetime(2026, 1, 1, 1, 0, tzinfo=UTC)
ATTACHED = HostIdentities(attached={resource_id("id").lower(): Attached(resource_id("id"))})
MIC = "check that MIC runs and leads"
LOST = "Azure has no /subscriptions/s/vm: see whether it still exists and MIC may read it, or delete its node"


def not_applied(text: str = "Binding ns/b not applied on node n for pod ns/web: " + LOST, minute: int = 58) -> Event:
    at = f"2026-01-01T00:{minute:02}:00Z"
    return Event(type="Warning", reason="binding apply error", message=text, last_timestamp=at)


def unassigned(**changes: Any) -> Any:
    explanation = explain_pod(now=NOW, assigned=(), **changes)
    return next(link for link in broken(explanation) if link.link == "assigned identity")


def test_a_node_without_provider_id_is_why_mic_creates_no_assignment() -> None:
    node = PlacedNode(metadata=BareMeta(name=NODE))
    link = unassigned(node=node)
    assert link.says == "MIC creates none: it has no providerID"
    assert "spec.providerID" in link.next
    assert MIC in unassigned(node=node, identities=(identity(type_=1),)).next, "it needs no VM"
    assert MIC in unassigned().next
    assert MIC in unassigned(node=ReadFailure("not allowed: nodes")).next


@pytest.mark.parametrize(
    ("event", "is_cause"),
    [
        (not_applied(), True),
        (not_applied(minute=40), False),
        (not_applied("Binding ns/other not applied on node n for pod ns/web: x"), False),
        (not_applied("Binding other/b not applied on node n for pod ns/web: x"), False),
        (replace(not_applied(), reason="TokenRefused"), False),
        (replace(not_applied(), last_timestamp="2036-01-01T00:58:00Z"), False),
    ],
    ids=["recent", "old", "of another binding", "of another namespace", "another reason", "of the future"],
)
def test_the_latest_event_with_mics_name_is_named_for_a_missing_assignment(event: Event, *, is_cause: bool) -> None:
    link = unassigned(events=(event,))
    assert link.says.startswith(f"an Event that names MIC as its source states: {LOST}; ") is is_cause
    assert (MIC in link.next) is not is_cause
    assert ("confirm it in MIC's log" in link.next) is is_cause
    assert LOST not in link.next, "others than MIC may write Events"


T = TypeVar("T", bound=Resource)


def dated(made: Resource, shape: type[T], seconds: float) -> T:
    """The object as explain reads it, created so many seconds before NOW."""
    document = msgspec.to_builtins(made)
    document["metadata"]["creationTimestamp"] = (NOW - timedelta(seconds=seconds)).isoformat()
    return msgspec.convert(document, shape)


@pytest.mark.parametrize(
    ("of_pod", "of_binding", "of_identity", "bound", "waits"),
    [
        (600, 5, 600, 5, True),
        (7, 600, 600, 7, True),
        (600, 600, 2, 2, True),
        (600, 121, 600, 121, False),
        (600, -5, 600, 0, True),
    ],
    ids=["a-new-binding", "a-new-pod", "a-new-identity", "overdue", "a-clock-that-is-behind"],
)
def test_the_time_since_an_identity_is_bound_decides_whether_to_wait(
    of_pod: float, of_binding: float, of_identity: float, bound: int, *, waits: bool
) -> None:
    ages = {
        ObjectReference(BINDINGS.plural, "ns", "b"): NOW - timedelta(seconds=of_binding),
        ObjectReference(IDENTITIES.plural, "ns", "id"): NOW - timedelta(seconds=of_identity),
    }
    known = {"pod": dated(pod(), DatedPod, of_pod), "created_at": ages, "server": ServerState("v1.31.0", 0.0)}
    link = unassigned(**known)
    assert link.says == f"bound for at most {bound} s; MIC has not written its AzureAssignedIdentity yet"
    assert link.next.startswith("MIC and Azure take up to 120 s") is waits
    assert MIC in link.next
    stated = unassigned(**known, events=(not_applied(),))
    assert LOST in stated.says
    assert stated.next.startswith("MIC and Azure take") is waits, "an Event does not decide whether to wait"
    assert "confirm it in MIC's log" in stated.next
    assert MIC not in stated.next, "its log shows the cause, or that it does not run"
    assert "MIC has not created one" in unassigned(**known | {"created_at": {}}).says
    assert "MIC has not created one" in unassigned(**known | {"server": ServerState("")}).says, "the clock is not known"


@pytest.mark.parametrize(
    ("type_", "azure", "reason"),
    [
        (0, None, "the identity is not attached to the VM or scale set yet"),
        (0, ATTACHED, "MIC has not set it to Assigned yet"),
        (3, None, "MIC has not set it to Assigned yet"),
    ],
)
@pytest.mark.parametrize(("age", "waits"), [(5, True), (121, False)])
def test_a_created_assignment_that_mic_does_not_complete_leads_to_mic(
    type_: int, azure: HostIdentities | None, reason: str, age: int, *, waits: bool
) -> None:
    made = labelled(assigned_identity(status="Created", type_=type_))
    bound = {
        ObjectReference(BINDINGS.plural, "ns", "b"): NOW - timedelta(seconds=age),
        ObjectReference(IDENTITIES.plural, "ns", "id"): NOW - timedelta(seconds=age),
    }
    own, server = dated(pod(), DatedPod, 600), ServerState("v1.31.0", 0.0)
    explanation = explain_pod(now=NOW, pod=own, created_at=bound, server=server, assigned=(made,), azure=azure)
    says = f"Created: bound for at most {age} s; {reason}"
    assert explanation.summary == f"broken: assigned identity: default/web-ns-id: {says}"
    assert MIC in explanation.next
    assert explanation.next.startswith("MIC and Azure take up to 120 s") is waits


@pytest.mark.parametrize("changes", [{"pod_uid": "uid-0"}, {"selector": "other"}, {"nodename": "node-2"}])
def test_an_assignment_that_mic_has_to_renew_leads_to_mic(changes: dict[str, Any]) -> None:
    explanation = explain_pod(assigned=(labelled(assigned_identity(**changes)),))
    assert MIC in explanation.next


def with_labels(**labels: str) -> Pod:
    made = pod(label=None)
    return replace(made, metadata=replace(made.metadata, labels=labels))


def test_a_key_that_is_meant_to_be_the_label_is_named() -> None:
    links = broken(explain_pod(pod=with_labels(aadpodidentitybinding="web"), assigned=()))
    assert "it has 'aadpodidentitybinding'" in links[0].says
    assert "rename the pod's label 'aadpodidentitybinding'" in links[0].next
    for others in ({"app": "web"}, {"aadpod.example/team": "web"}, {"aadpodidbinding": ""}):
        assert "rename" not in broken(explain_pod(pod=with_labels(**others), assigned=()))[0].next


def owned(
    kind: Any = DEPLOYMENTS, *, template: str = "", label: str = "it's; $(x)", name: str = "web", namespace: str = "ns"
) -> Any:
    """The links that the fault breaks for a pod without a label whose owner has this one, and its template another."""
    spec: dict[str, Any] = {"template": {"metadata": {"labels": {"aadpodidbinding": template}}}}
    spec = {"jobTemplate": {"spec": spec}} if kind is CRON_JOBS else spec
    document = {"metadata": {"namespace": namespace, "name": name, "labels": {"aadpodidbinding": label}}, "spec": spec}
    owner = Owner(kind, msgspec.convert(document, WorkloadObject))
    return broken(explain_pod(pod=with_labels(app="web"), assigned=(), owner=owner))[0]


def test_a_label_on_the_deployment_only_is_named_with_the_command_that_corrects_it() -> None:
    link = owned()
    assert link.link == "label"
    assert link.says == "the label is on Deployment ns/web, not in its pod template"
    words = shlex.split(link.next.partition(": ")[2])
    assert words[:4] + words[5:] == ["kubectl", "patch", "deployment/web", "-p", "--type=merge", "--namespace=ns"]
    labels = {"template": {"metadata": {"labels": {"aadpodidbinding": "it's; $(x)"}}}}
    assert json.loads(words[4]) == {"spec": labels}
    assert json.loads(shlex.split(owned(CRON_JOBS).next)[-3]) == {"spec": {"jobTemplate": {"spec": labels}}}
    assert "kubectl patch" not in owned(JOBS).next, "the template of a Job is immutable"
    assert owned(label="").says == "the pod does not have this label, or its value is empty"


@pytest.mark.parametrize("word", ["basic", "team-bearer", "password", "client-secret"])
def test_the_command_is_complete_whatever_the_names(word: str) -> None:
    command = owned(name=word, namespace=word).next.partition(": ")[2]
    assert command.startswith(f"kubectl patch deployment/{word} -p ")
    assert command.endswith(f" --type=merge --namespace={word}")


def test_a_pod_that_is_older_than_the_label_of_its_template_is_to_be_created_again() -> None:
    link = owned(template="web", name="store")
    text = "the pod does not have this label, or its value is empty; the pod template of Deployment ns/store has it"
    assert (link.about, link.says) == ("aadpodidbinding=web", text)
    assert link.next.endswith("kubectl delete pod web -n ns")
    assert "kubectl delete" not in owned(CRON_JOBS, template="web").next


@pytest.mark.parametrize(
    ("required", "text"),
    [
        ({"app": "wbe"}, "it requires the label app=wbe, and the pod has app=web"),
        ({"apps": "web"}, "it requires the label apps=web, and the pod has app=web"),
        ({"app": "billing"}, ""),
        ({"apps": "billing"}, ""),
        ({"app": "billing", "tier": "wbe"}, ""),
        ({"tier": "web"}, ""),
    ],
)
def test_an_exception_that_almost_matches_the_pod_is_named(required: dict[str, str], text: str) -> None:
    near = explain_pod(pod=with_labels(app="web"), exceptions=(exception(labels=required),), assigned=())
    (link,) = [link for link in near.links if link.link == "exception"]
    assert (link.state, link.says) == (LinkState.BROKEN, text) if text else link.state is LinkState.OK
    meant = explain_pod(
        pod=with_labels(app="web", aadpodidbindng="web"), exceptions=(exception(labels=required),), assigned=()
    )
    assert broken(meant)[0].link == "label"
    bound = explain_pod(exceptions=(exception(labels={"aadpodidbinding": "wbe"}),))
    assert broken(bound) == [], "a pod with the label of bindings needs no exception"


def refused(at: str, **changes: Any) -> LoggedDecision:
    return LoggedDecision(at=at, decided_at=at, status=405, **changes)


def test_a_request_with_another_method_is_a_cause() -> None:
    decision = refused("01-01 00:59:30", outcome=Reason.METHOD_NOT_ALLOWED.value, error="let it use GET")
    explanation = explain_pod(now=NOW, decisions=(decision,))
    assert (only(explanation).next, explanation.answer.outcome) == ("let it use GET", Outcome.REFUSED)


@pytest.mark.parametrize(("at", "is_old"), [("01-01 00:59:00", False), ("01-01 00:57:00", True)])
def test_an_older_refusal_states_that_no_request_has_followed(at: str, *, is_old: bool) -> None:
    decision = refused(at, outcome=Reason.UPSTREAM_UNAVAILABLE.value, error="check IMDS")
    assert ("no request since" in only(explain_pod(now=NOW, decisions=(decision,))).says) is is_old


def test_an_event_or_a_later_decision_gives_no_statement_about_later_requests() -> None:
    event = Event(type="Warning", reason="TokenRefused", message="check IMDS", last_timestamp="2026-01-01T00:50:00Z")
    assert "no request since" not in only(explain_pod(now=NOW, events=(event,))).says
    old = refused("01-01 00:50:00", outcome=Reason.UPSTREAM_UNAVAILABLE.value, error="check IMDS", resource="https://a")
    later = LoggedDecision(at="01-01 00:59:50", decided_at="01-01 00:59:50", outcome="granted", resource="https://b")
    assert "no request since" not in only(explain_pod(now=NOW, decisions=(later, old))).says


@pytest.mark.parametrize("code", ["AADSTS7000215", "AADSTS7000222", "AADSTS700027", "AADSTS700016"])
def test_a_secret_that_entra_id_refused_is_not_reported_as_usable(code: str) -> None:
    text = refusal_of(Refused(f"{code}: no", status=401, code=code)).detail
    recent = RecentRefusal(NOW, text, "upstream_refused", identity="ns/id")
    checks = {"credentials": {("ns", "id"): None, ("ns", "other"): None}, "refused": {"ns/web": recent}}
    (credentials,) = [line for line in examined(**checks).findings if line.check == "credentials"]
    assert credentials.says.startswith("2 Secrets exist" if code == "AADSTS700016" else "1 Secret exists")
    assert one(examined(**checks)).next == text


@pytest.mark.parametrize(
    ("code", "action"),
    [
        ("AADSTS7000215", "put a valid client secret into the Secret"),
        ("AADSTS7000222", "put a new client secret into the Secret"),
        ("AADSTS700027", "put a certificate of the application into the Secret"),
        ("AADSTS90002", "correct tenantID"),
        ("AADSTS700016", "correct clientID"),
        ("AADSTS500011", "correct the resource"),
        (GUEST_PROXY, "allow NMI in the IMDS rules of the metadata security protocol"),
        ("AADSTS53003", "check the AzureIdentity's clientID and the requested resource"),
    ],
)
def test_each_code_of_a_refusal_has_its_own_first_action(code: str, action: str) -> None:
    assert refusal_of(Refused(f"{code}: no", status=400, code=code)).detail.startswith(action)


def test_the_action_of_a_refusal_of_mic_is_the_command_alone() -> None:
    command = role_command(
        "0b1ec700-0000-0000-0000-000000000001", "Virtual Machine Contributor", "/subscriptions/s/resourceGroups/MC_(b)"
    )
    note = f"Azure refuses MIC on /s (403 AuthorizationFailed): {command}; MIC tries again every minute"
    assert action_in(note) == command
    for other in (LOST, note.replace("'/subscriptions", "$(reboot)'/subscriptions"), note.replace("(b)'", "(b)`'")):
        assert action_in(other) == other
