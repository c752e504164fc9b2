"""The verdict on a node: only a line in the log of its own NMI, with the pod's address, proves that NMI answered."""

import pytest

from nmi.node.host_routing import LABEL
from podidctl.doctor.schema import Level
from podidctl.verify.judgement import Evidence, Sighting, judge
from podidctl.verify.objects import ClusterNode, NodeCondition, NodeStatus
from podidctl.verify.outcome import Answers, CanaryAnswer, NotRun
from podidctl.verify.schema import Answered, NodeVerdict
from podidentity.resources import BareMeta

NODE = "node-a"
POD = "10.0.0.9"
NMI = "kube-system/nmi-a"


def node(labels: dict[str, str] | None = None) -> ClusterNode:
    status = NodeStatus(conditions=[NodeCondition(type="Ready", status="True")])
    return ClusterNode(metadata=BareMeta(name=NODE, labels=labels), status=status)


def answer(who: str, **fields: object) -> CanaryAnswer:
    known: dict[str, object] = {"source": "" if who == "nothing" else POD, "status": 404 if who == "nmi" else 0}
    return CanaryAnswer(who=who, **{**known, **fields})  # type: ignore[arg-type]  # fields of the struct


def seen(at: str = NODE, *, peer: str = POD, nmi: str = NMI) -> Evidence:
    return Evidence((Sighting(at, nmi, peer),))


FIVE = (answer("nmi"),) * 5


def judged(answers: Answers | NotRun, evidence: Evidence = Evidence(), nmis: tuple[str, ...] = (NMI,)) -> NodeVerdict:  # noqa: B008 - immutable
    return judge(node(), answers, evidence, nmis)


def test_the_log_of_the_nodes_nmi_with_the_pods_address_is_the_proof() -> None:
    found = judged(FIVE, seen())
    assert (found.level, found.answered_by, found.nmi) == (Level.OK, Answered.NMI, NMI)
    assert found.next == ""


def test_an_answer_like_nmis_without_a_line_in_a_log_is_no_proof() -> None:
    found = judged(FIVE)
    assert (found.level, found.answered_by) == (Level.UNKNOWN, Answered.UNPROVEN)
    assert "imitates NMI" in found.next


def test_an_unreadable_log_is_no_proof_and_names_the_permission() -> None:
    found = judged(FIVE, Evidence(unread=(f"{NMI}: 403 Forbidden: no",)))
    assert (found.level, found.answered_by) == (Level.UNKNOWN, Answered.UNPROVEN)
    assert "403 Forbidden" in found.says
    assert "pods/log" in found.next


def test_a_line_in_the_log_of_another_node_is_a_fault() -> None:
    found = judged(FIVE, seen("node-b", nmi="kube-system/nmi-b"))
    assert (found.level, found.answered_by) == (Level.PROBLEM, Answered.OTHER_NODE)
    assert "kube-system/nmi-b of node node-b" in found.says


def test_a_line_with_another_address_is_a_fault() -> None:
    """Masquerading, or a program that forwards the request to NMI in its own name."""
    found = judged(FIVE, seen(peer="10.0.0.1"))
    assert (found.level, found.answered_by) == (Level.PROBLEM, Answered.OTHER_ADDRESS)
    assert "10.0.0.1" in found.says
    assert POD in found.says


def test_the_pods_address_counts_although_another_address_is_in_the_log_too() -> None:
    several = Evidence((*seen(peer="10.0.0.1").sightings, *seen().sightings))
    assert judged(FIVE, several).level is Level.OK


def test_one_answer_of_imds_is_a_fault_although_nmi_sent_the_others() -> None:
    found = judged((answer("imds", status=400), *FIVE[1:]), seen())
    assert (found.level, found.answered_by) == (Level.PROBLEM, Answered.IMDS)
    assert "1 of 5 requests" in found.says


@pytest.mark.parametrize(
    ("labels", "nmis", "action"),
    [
        ({}, (), "no NMI runs on this node"),
        ({LABEL: "true"}, (NMI,), "nmi.redirect.backend to cilium"),
        ({LABEL: "false"}, (NMI,), "podidctl doctor --node=node-a"),
    ],
)
def test_the_action_for_imds_depends_on_the_node(labels: dict[str, str], nmis: tuple[str, ...], action: str) -> None:
    found = judge(node(labels), (answer("imds"),) * 5, Evidence(), nmis)
    assert action in found.next


def test_no_answer_is_a_fault_with_its_reason() -> None:
    found = judged((answer("nothing", text="ConnectionRefusedError: refused"),) * 3)
    assert (found.level, found.answered_by) == (Level.PROBLEM, Answered.NOTHING)
    assert "ConnectionRefusedError" in found.says


def test_a_missing_answer_among_nmis_is_a_warning() -> None:
    found = judged((answer("nothing", text="TimeoutError"), *FIVE[1:]), seen())
    assert (found.level, found.answered_by) == (Level.WARNING, Answered.NMI)
    assert "1 of 5 requests got no answer" in found.says


def test_another_server_is_a_fault() -> None:
    found = judged((answer("other", status=200, server="nginx"),) * 5)
    assert (found.level, found.answered_by) == (Level.PROBLEM, Answered.OTHER)
    assert "status 200 nginx" in found.says


def test_an_nmi_that_refuses_its_pods_is_a_fault_of_nmi() -> None:
    refused = answer("other", status=403, text="Ask at the metadata service's own address.")
    found = judged((refused,) * 5, seen())
    assert (found.level, found.answered_by, found.nmi) == (Level.PROBLEM, Answered.NMI_REFUSED, NMI)
    assert "status 403 Ask at" in found.says


def test_a_canary_that_did_not_run_is_unknown() -> None:
    found = judged(NotRun("why", "then"))
    assert (found.level, found.answered_by, found.says, found.next) == (Level.UNKNOWN, Answered.UNKNOWN, "why", "then")
    assert found.node == NODE


def test_texts_of_the_server_are_printed_safely() -> None:
    found = judged((answer("other", text="\x1b[31mred\n"),) * 5)
    assert found.says.isprintable()
