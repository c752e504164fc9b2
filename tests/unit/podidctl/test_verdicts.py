"""The outcome of a canary pod, and the verdict: only the log of the node's NMI with the pod's address is a proof."""

import json
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from nmi.node.host_routing import LABEL
from podidctl.report.finding import Level
from podidctl.verify.canary_outcome import CanaryResponse, CanaryResponses, NotRun, late, outcome_of
from podidctl.verify.pod import Canary, ClusterNode, NodeCondition, NodeStatus
from podidctl.verify.verdicts import Answered, Evidence, NodeVerdict, Sighting, judge, without_canary
from podidctl.verify.verification import LEFTOVER_SECONDS, NAME_PREFIX, _is_leftover
from podidentity.resources import BareMeta

NODE = "node-a"
POD = "10.0.0.9"
NMI = "kube-system/nmi-a"


def node(labels: dict[str, str] | None = None) -> ClusterNode:
    status = NodeStatus(conditions=[NodeCondition(type="Ready", status="True")])
    return ClusterNode(metadata=BareMeta(name=NODE, labels=labels), status=status)


def response(who: str, **fields: object) -> CanaryResponse:
    known: dict[str, object] = {"source": "" if who == "nothing" else POD, "status": 404 if who == "nmi" else 0}
    return CanaryResponse(who=who, **{**known, **fields})  # type: ignore[arg-type]  # fields of the struct


def seen(at: str = NODE, *, peer: str = POD, nmi: str = NMI) -> Evidence:
    return Evidence((Sighting(at, nmi, peer),))


FIVE = (response("nmi"),) * 5


def judged(
    responses: CanaryResponses,
    evidence: Evidence = Evidence(),  # noqa: B008 - immutable
    nmis: tuple[str, ...] = (NMI,),
) -> NodeVerdict:
    return judge(node(), responses, evidence, nmis)


def test_the_log_of_the_nodes_nmi_with_the_pods_address_is_the_proof() -> None:
    verdict = judged(FIVE, seen())
    assert (verdict.level, verdict.answered_by, verdict.nmi) == (Level.OK, Answered.NMI, NMI)
    assert verdict.next == ""
    several = Evidence((*seen(peer="10.0.0.1").sightings, *seen().sightings))
    assert judged(FIVE, several).level is Level.OK


def test_an_answer_like_nmis_without_a_line_in_a_log_is_no_proof() -> None:
    verdict = judged(FIVE)
    assert (verdict.level, verdict.answered_by) == (Level.UNKNOWN, Answered.UNPROVEN)
    assert "imitates NMI" in verdict.next


def test_an_unreadable_log_is_no_proof_and_names_the_permission() -> None:
    verdict = judged(FIVE, Evidence(unread=(f"{NMI}: 403 Forbidden: no",)))
    assert (verdict.level, verdict.answered_by) == (Level.UNKNOWN, Answered.UNPROVEN)
    assert "403 Forbidden" in verdict.says
    assert "pods/log" in verdict.next


def test_a_line_in_the_log_of_another_node_is_a_fault() -> None:
    verdict = judged(FIVE, seen("node-b", nmi="kube-system/nmi-b"))
    assert (verdict.level, verdict.answered_by) == (Level.PROBLEM, Answered.OTHER_NODE)
    assert "kube-system/nmi-b of node node-b" in verdict.says


def test_a_line_with_another_address_is_a_fault() -> None:
    """Masquerading, or a program that forwards the request to NMI in its own name."""
    verdict = judged(FIVE, seen(peer="10.0.0.1"))
    assert (verdict.level, verdict.answered_by) == (Level.PROBLEM, Answered.OTHER_ADDRESS)
    assert "10.0.0.1" in verdict.says
    assert POD in verdict.says


def test_one_answer_of_imds_is_a_fault_although_nmi_sent_the_others() -> None:
    verdict = judged((response("imds", status=400), *FIVE[1:]), seen())
    assert (verdict.level, verdict.answered_by) == (Level.PROBLEM, Answered.IMDS)
    assert "1 of 5 requests" in verdict.says


@pytest.mark.parametrize(
    ("labels", "nmis", "action"),
    [
        ({}, (), "no NMI runs on this node"),
        ({LABEL: "true"}, (NMI,), "nmi.redirect.backend to cilium"),
        ({LABEL: "false"}, (NMI,), "podidctl doctor --node=node-a"),
    ],
)
def test_the_action_for_imds_depends_on_the_node(labels: dict[str, str], nmis: tuple[str, ...], action: str) -> None:
    verdict = judge(node(labels), (response("imds"),) * 5, Evidence(), nmis)
    assert action in verdict.next


def test_no_answer_another_server_and_a_refusing_nmi_are_faults() -> None:
    verdict = judged((response("nothing", text="ConnectionRefusedError: refused"),) * 3)
    assert (verdict.level, verdict.answered_by) == (Level.PROBLEM, Answered.NOTHING)
    assert "ConnectionRefusedError" in verdict.says
    verdict = judged((response("other", status=200, server="nginx"),) * 5)
    assert (verdict.level, verdict.answered_by) == (Level.PROBLEM, Answered.OTHER)
    assert "status 200 nginx" in verdict.says
    refused = response("other", status=403, text="Ask at the metadata service's own address.")
    verdict = judged((refused,) * 5, seen())
    assert (verdict.level, verdict.answered_by, verdict.nmi) == (Level.PROBLEM, Answered.NMI_REFUSED, NMI)
    assert "status 403 Ask at" in verdict.says


def test_a_missing_answer_among_nmis_is_a_warning() -> None:
    verdict = judged((response("nothing", text="TimeoutError"), *FIVE[1:]), seen())
    assert (verdict.level, verdict.answered_by) == (Level.WARNING, Answered.NMI)
    assert "1 of 5 requests got no answer" in verdict.says


def test_a_canary_that_did_not_run_is_unknown() -> None:
    verdict = without_canary(node(), NotRun("reason", "then"))
    assert (verdict.level, verdict.answered_by, verdict.says, verdict.next) == (
        Level.UNKNOWN,
        Answered.UNKNOWN,
        "reason",
        "then",
    )
    assert verdict.node == NODE


def test_texts_of_the_server_are_printed_safely() -> None:
    verdict = judged((response("other", text="\x1b[31mred\n"),) * 5)
    assert verdict.says.isprintable()


def canary_pod(state: dict[str, Any] | None = None, *, name: str = "canary", **status: Any) -> Canary:
    statuses = [{"name": name, "state": state}] if state is not None else []
    document = {"metadata": {"name": "c"}, "status": {"phase": "Pending", "containerStatuses": statuses, **status}}
    return msgspec.convert(document, Canary)


def reason_of(outcome: object) -> tuple[str, str]:
    assert isinstance(outcome, NotRun)
    return outcome.reason, outcome.then


def test_the_message_of_the_ended_container_is_the_result() -> None:
    message = json.dumps([{"who": "nmi", "source": "10.0.0.9", "status": 404, "server": "", "text": "x"}])
    outcome = outcome_of(canary_pod({"terminated": {"exitCode": 0, "message": message}}))
    assert isinstance(outcome, tuple)
    assert (outcome[0].who, outcome[0].source, outcome[0].status) == ("nmi", "10.0.0.9", 404)


@pytest.mark.parametrize("message", [None, "", "[]", "not json", '{"who": "nmi"}', '[{"status": "x"}]'])
def test_a_container_without_a_result_is_unknown(message: str | None) -> None:
    reason, _ = reason_of(
        outcome_of(canary_pod({"terminated": {"exitCode": 127, "reason": "StartError", "message": message}}))
    )
    assert "exit code 127, StartError" in reason


@pytest.mark.parametrize(
    "starting",
    [
        canary_pod(),
        canary_pod({}),
        canary_pod({"running": {}}),
        canary_pod({"waiting": {"reason": "ContainerCreating"}}),
        canary_pod({"waiting": {"reason": "ErrImagePull", "message": "no such host"}}),
        canary_pod({"terminated": {"exitCode": 0, "message": "[]"}}, name="istio-proxy"),
    ],
    ids=["no-status", "no-state", "running", "creating", "first failed pull", "only a mesh's sidecar"],
)
def test_a_starting_pod_has_no_outcome_yet(starting: Canary) -> None:
    assert outcome_of(starting) is None


IMAGE = ("ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull")
RUNTIME = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")


@pytest.mark.parametrize("cause", [*IMAGE, *RUNTIME])
def test_a_container_that_cannot_start_is_named(cause: str) -> None:
    reason, then = reason_of(outcome_of(canary_pod({"waiting": {"reason": cause, "message": "no such host"}})))
    assert f"{cause}: no such host" in reason
    assert ("image" in then) >= (cause in IMAGE)


def test_a_pod_that_the_cluster_ended_is_unknown() -> None:
    outcome = outcome_of(canary_pod(phase="Failed", reason="OutOfcpu", message="Node didn't have enough resource"))
    assert "OutOfcpu: Node didn't have enough resource" in reason_of(outcome)[0]
    outcome = outcome_of(canary_pod({"running": {}}, phase="Failed", reason="DeadlineExceeded"))
    assert "DeadlineExceeded" in reason_of(outcome)[0]
    document = {"metadata": {"name": "c", "deletionTimestamp": "2026-11-28T00:00:00Z"}}
    assert "deleted" in reason_of(outcome_of(msgspec.convert(document, Canary)))[0]


@pytest.mark.parametrize(
    ("last_state", "text"),
    [
        (None, "did not start"),
        (canary_pod(), "the node's kubelet did not start the canary within 60 s"),
        (canary_pod({"running": {}}), "the canary did not end within 60 s"),
        (canary_pod({"waiting": {"reason": "ContainerCreating"}}), "ContainerCreating"),
        (canary_pod({"waiting": {"reason": "ErrImagePull", "message": "denied"}}), "ErrImagePull: denied"),
    ],
)
def test_a_late_canary_states_how_far_it_came(last_state: Canary | None, text: str) -> None:
    assert text in late(last_state, 60).reason


CREATED = "2026-11-28T00:00:00Z"


def created_pod(name: str = f"{NAME_PREFIX}1", created: str | None = CREATED) -> Canary:
    metadata = {"name": name, "creationTimestamp": created}
    return msgspec.convert({"metadata": metadata, "spec": {"activeDeadlineSeconds": 90}}, Canary)


@pytest.mark.parametrize(("seconds", "leftover"), [(0, False), (90, False), (150, False), (151, True), (9000, True)])
def test_it_is_one_a_minute_after_its_deadline(seconds: int, leftover: bool) -> None:
    assert LEFTOVER_SECONDS == 60
    now = datetime.fromtimestamp(datetime.fromisoformat(CREATED).timestamp() + seconds, UTC)
    assert _is_leftover(created_pod(), now) is leftover


@pytest.mark.parametrize("pod", [created_pod("other"), created_pod(created=None), created_pod(created="yesterday")])
def test_a_pod_that_is_not_certainly_one_stays(pod: Canary) -> None:
    assert not _is_leftover(pod, datetime(2027, 1, 1, tzinfo=UTC))
