"""A pod on a node without NMI: each command names the cause and the next action."""

from typing import Any

import msgspec
import pytest

from podidctl.access.schema import GrantState, Way
from podidctl.commands.token import predict
from podidctl.evaluation.daemons import missing_nmi
from podidctl.facts.kinds import Daemon, PlacedNode, PlacedNodeSpec, Taint, Toleration
from podidctl.facts.model import ReadFailure
from podidctl.report.documents import LinkState, Outcome, TokenPrediction
from podidctl.report.finding import Level
from podidentity.resources import BareMeta
from tests.support.nmi_objects import NODE, exception, pod
from tests.support.podidctl.access import small_cluster
from tests.support.podidctl.doctor_inputs import bad, examined, nmi, node, objects
from tests.support.podidctl.prediction_inputs import VM, explain_pod, facts, nmi_pod, only

LINUX = {"kubernetes.io/os": "linux"}
ALL = (Toleration(operator="Exists"),)


def daemon(
    *,
    selector: dict[str, str] | None = None,
    tolerations: tuple[Toleration, ...] = ALL,
    daemon_set: str = "nmi",
    on: str = "node-2",
    waits_for: str = "",
) -> Daemon:
    """NMI's pod of another node, or one that waits for a node."""
    required = {"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "values": [waits_for or on]}]}]}
    message = "0/3 nodes are available: 1 Too many pods."
    scheduled = {"type": "PodScheduled", "status": "False", "message": message}
    document = {
        "metadata": {
            "name": f"{daemon_set}-x",
            "namespace": "podid",
            "ownerReferences": [{"kind": "DaemonSet", "name": daemon_set, "controller": True}],
        },
        "spec": {
            "nodeName": "" if waits_for else on,
            "hostNetwork": True,
            "nodeSelector": LINUX if selector is None else selector,
            "tolerations": msgspec.to_builtins(tolerations),
            "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}},
        },
        "status": {"phase": "Pending", "conditions": [scheduled]} if waits_for else {},
    }
    return msgspec.convert(document, Daemon)


def _label(word: str) -> str:
    """Return the label of a Python name: `kubernetes__io__os` is `kubernetes.io/os`."""
    first, _, last = word.rpartition("__")
    return f"{first.replace('__', '.')}/{last}" if first else word


def placed(*taints: Taint, unschedulable: bool = False, **labels: str) -> PlacedNode:
    named = {"kubernetes.io/os": "linux"} | {_label(key): value for key, value in labels.items()}
    return PlacedNode(
        metadata=BareMeta(name=NODE, labels=named),
        spec=PlacedNodeSpec(provider_id=f"azure://{VM}", taints=list(taints), unschedulable=unschedulable),
    )


GPU = Taint(key="sku", value="gpu", effect="NoSchedule")
WINDOWS = placed(kubernetes__io__os="windows")
VIRTUAL = placed(type="virtual-kubelet")
KINDS = pytest.mark.parametrize(
    ("kind", "cause", "effect"),
    [
        (WINDOWS, "the node runs Windows, where NMI does not run", "with every identity that is attached to its VM or"),
        (VIRTUAL, "the node is virtual (virtual-kubelet)", "get no token from NMI and have no identities of a VM"),
        (
            placed(Taint(key="virtual-kubelet.io/provider", value="azure", effect="NoSchedule")),
            "the node is virtual (virtual-kubelet)",
            "get no token from NMI",
        ),
    ],
    ids=["windows", "virtual", "virtual-by-taint"],
)


@KINDS
@pytest.mark.parametrize("others", [(daemon(),), ()], ids=["nmi-elsewhere", "no-nmi"])
def test_explain_and_token_state_that_nmi_serves_no_pod_there(
    kind: PlacedNode, cause: str, effect: str, others: tuple[Daemon, ...]
) -> None:
    explanation = explain_pod(node=kind, nmi=others)
    assert explanation.answer.outcome is Outcome.UNANSWERED
    assert explanation.answer.says.startswith(f"NMI serves no pod on this node: {cause}")
    assert effect in explanation.answer.says
    link = only(explanation)
    assert (link.link, link.about) == ("NMI", NODE)
    assert cause in link.says
    assert "workload identity" in explanation.next
    assert [link.link for link in explanation.links] == ["pod", "NMI"], "no other link leads to a token there"
    prediction = ask(node=kind, nmi=others)
    assert prediction.outcome is Outcome.UNANSWERED
    assert prediction.note.startswith(f"no working NMI was found on its node: {cause}")
    assert effect in prediction.note


def test_explain_advises_a_node_selector_and_the_removal_of_the_label_on_windows() -> None:
    then = explain_pod(node=WINDOWS, nmi=(), bindings=(), assigned=()).next
    assert "remove its label aadpodidbinding, by which MIC attaches identities to the scale set" in then
    assert "nodeSelector kubernetes.io/os: linux" in then
    explanation = explain_pod(node=WINDOWS, nmi=ReadFailure("not allowed"))
    assert explanation.answer.outcome is Outcome.UNANSWERED
    assert only(explanation).link == "NMI"
    explanation = explain_pod(node=ReadFailure("not allowed: nodes"), nmi=(daemon(),))
    (link,) = [link for link in explanation.links if link.link == "NMI"]
    assert link.state is LinkState.BROKEN
    assert "this node has no NMI pod, but other nodes have one" in link.says


@pytest.mark.parametrize("label", ["linux", ""])
def test_a_linux_node_with_nmi_is_served(label: str) -> None:
    explanation = explain_pod(node=placed(kubernetes__io__os=label))
    assert explanation.answer.outcome is Outcome.GRANTED


def test_a_ready_nmi_on_the_node_serves_it_whatever_its_labels_are() -> None:
    assert explain_pod(node=VIRTUAL, nmi=(nmi_pod(),)).answer.outcome is Outcome.GRANTED
    not_ready = (nmi_pod(ready=False),)
    assert explain_pod(node=WINDOWS, nmi=not_ready).answer.outcome is Outcome.UNANSWERED
    exempt: dict[str, Any] = {"pod": pod(labels={"app": "x"}), "exceptions": (exception(labels={"app": "x"}),)}
    assert ask(node=WINDOWS, nmi=(), **exempt).outcome is Outcome.EXEMPT
    assert ask(node=VIRTUAL, nmi=(), **exempt).outcome is Outcome.UNANSWERED
    assert bad(examined(objects=objects(nodes=(VIRTUAL,)), nmi=(nmi(),))) == []


def ask(**changes: Any) -> TokenPrediction:
    return predict(facts(**changes), "https://vault.azure.net")


@pytest.mark.parametrize(
    ("on", "others", "cause", "then"),
    [
        (
            placed(GPU),
            (daemon(tolerations=(Toleration(key="sku", value="cpu"),)),),
            "NMI's DaemonSet nmi does not tolerate its taint sku=gpu:NoSchedule",
            f"kubectl taint node {NODE} sku:NoSchedule-",
        ),
        (
            placed(Taint(key="node.kubernetes.io/not-ready", effect="NoSchedule")),
            (daemon(tolerations=()),),
            "does not tolerate its taint node.kubernetes.io/not-ready:NoSchedule",
            f"correct the condition of the node that this taint reports: kubectl describe node {NODE}",
        ),
        (
            placed(pool="user"),
            (daemon(selector={"pool": "system"}),),
            "the nodeSelector of NMI's DaemonSet nmi requires pool=system, and its label is pool=user",
            f"kubectl label node {NODE} pool=system",
        ),
        (
            placed(),
            (daemon(selector={"nmi": "yes"}),),
            "requires nmi=yes, and it has no such label",
            "nmi.nodeSelector in the chart's values",
        ),
        (
            placed(),
            (daemon(), daemon(waits_for=NODE)),
            "NMI's pod podid/nmi-x is not scheduled to it: 0/3 nodes are available: 1 Too many pods.",
            "kubectl describe pod -n podid nmi-x",
        ),
        (
            placed(unschedulable=True),
            (daemon(),),
            "admit it; that the node is cordoned does not matter for a DaemonSet",
            "kubectl describe daemonset -n podid nmi",
        ),
        (placed(), (daemon(),), "nodeSelector and tolerations of NMI's DaemonSet nmi admit it", "affinity and events"),
        (placed(), (nmi_pod("node-2"),), "no DaemonSet of NMI was found", "tolerations"),
    ],
    ids=["taint", "condition", "label", "no-label", "pending", "cordoned", "affinity", "no-daemonset"],
)
def test_the_cause_is_named(on: PlacedNode, others: tuple[Daemon, ...], cause: str, then: str) -> None:
    explanation = explain_pod(node=on, nmi=others)
    assert cause in only(explanation).says
    assert then in explanation.next
    assert cause in explanation.answer.says
    assert cause in ask(node=on, nmi=others).note


@pytest.mark.parametrize(
    ("tolerations", "prevented"),
    [
        ((Toleration(operator="Exists"),), False),
        ((Toleration(key="sku", operator="Exists"),), False),
        ((Toleration(key="sku", value="gpu"),), False),
        ((Toleration(key="sku", operator="Equal", value="gpu", effect="NoSchedule"),), False),
        ((), True),
        ((Toleration(key="sku", value="cpu"),), True),
        ((Toleration(key="sku", operator="Exists", effect="NoExecute"),), True),
        ((Toleration(key="other", operator="Exists"),), True),
        ((Toleration(key="", operator="Equal", value="gpu"),), True),
    ],
)
def test_taints_are_tolerated_as_by_the_scheduler(tolerations: tuple[Toleration, ...], *, prevented: bool) -> None:
    reason = missing_nmi(placed(GPU), [daemon(tolerations=tolerations)]).reason
    assert ("does not tolerate" in reason) is prevented


def test_a_taint_that_only_discourages_is_no_cause() -> None:
    preferred = Taint(key="sku", value="gpu", effect="PreferNoSchedule")
    assert "admit it" in missing_nmi(placed(preferred), [daemon(tolerations=())]).reason
    others = [daemon(selector={"pool": "arm"}, daemon_set="nmi-arm"), daemon(daemon_set="nmi-amd")]
    assert "DaemonSet nmi-amd admit it" in missing_nmi(placed(), others).reason


def test_doctor_groups_the_nodes_by_cause() -> None:
    three = (node(), node("node-2"), node("node-3"))
    (line,) = bad(examined(objects=objects(nodes=three)))
    assert (line.check, line.level) == ("NMI", Level.PROBLEM)
    assert line.says.startswith("2 nodes without NMI, where IMDS responds to pods: node-2, node-3: ")
    assert "kubectl describe daemonset -n kube-system nmi" in line.next


@KINDS
def test_doctor_names_the_labelled_pods_on_such_nodes(kind: PlacedNode, cause: str, effect: str) -> None:
    there = objects(nodes=(kind, node("node-2")))
    (line,) = bad(examined(objects=there, nmi=(nmi(node="node-2"),)))
    assert (line.check, line.level) == ("NMI", Level.PROBLEM)
    assert line.says.startswith(f"1 pod with a label, which NMI does not serve: {cause}")
    assert effect in line.says
    assert line.says.endswith(": ns/web")
    assert "workload identity" in line.next
    unlabelled = objects(nodes=(kind, node("node-2")), pods=(), assigned=())
    assert not [
        finding for finding in bad(examined(objects=unlabelled, nmi=(nmi(node="node-2"),))) if finding.check == "NMI"
    ]


def reviewed(*taints: Taint, **labels: str) -> tuple[Any, Any]:
    """The labelled pod on that node next to one with NMI, and its grant."""
    host = f"{small_cluster.SCALE_SET}/virtualMachines/9"
    there = PlacedNode(
        metadata=BareMeta(name="node-9", labels={_label(key): value for key, value in labels.items()}),
        spec=PlacedNodeSpec(provider_id=f"azure://{host}", taints=list(taints)),
    )
    review = small_cluster.reviewed(
        pods=(small_cluster.pod("web", label="app", node="node-9"),),
        identities=(small_cluster.identity("payments"),),
        bindings=(small_cluster.binding("app", identity="payments"),),
        nodes=(small_cluster.node("node-0", ""), there),
        nmi=(small_cluster.nmi("node-0"),),
    )
    (grant,) = review.grants
    return small_cluster.pod_of(review, "shop/web"), grant


def test_access_reports_that_its_requests_bypass_nmi_and_reach_the_host() -> None:
    its, grant = reviewed(kubernetes__io__os="windows")
    assert grant.state is GrantState.BYPASSED
    assert [(access.way, access.detail) for access in its.host_access] == [
        (Way.NO_NMI, "the node runs Windows, where NMI does not run")
    ]
    its, grant = reviewed(type="virtual-kubelet")
    assert (grant.state, its.host_access) == (GrantState.BYPASSED, [])
    assert "get no token from NMI and have no identities of a VM" in its.note
