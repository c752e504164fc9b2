"""Nodes of AKS with eBPF host routing: their label, AKS's label of CiliumNodes and its Events, with the next action."""

from typing import Any

import pytest

from nmi.node.host_routing import LABEL
from podidctl.checks.daemons import EBPF as CHECK
from podidctl.checks.machine import check_redirect
from podidctl.facts.kinds import PlacedNode
from podidctl.facts.model import BLOCKED, RULES_LABEL, UNEXPECTED, NodeState, ReadFailure, RuleMonitor
from podidctl.facts.model import RULE_EVENTS_MAX as EVENTS_MAX
from podidctl.reading.rule_monitor import read_rule_monitor
from podidctl.report.documents import CheckResult
from podidctl.report.finding import Level
from podidentity.resources import BareMeta
from tests.support.podidctl.doctor_inputs import examined, nmi, node, objects
from tests.support.podidctl.memory_cluster import MemoryCluster


def routed(name: str = "node-1") -> PlacedNode:
    return PlacedNode(metadata=BareMeta(name=name, labels={LABEL: "true"}))


def findings(monitor: RuleMonitor, *nodes: PlacedNode, flags: tuple[str, ...] = ()) -> list[CheckResult]:
    report = examined(objects=objects(nodes=nodes), nmi=(nmi(*flags),), rule_monitor=monitor)
    return [finding for finding in report.findings if finding.check == CHECK]


def test_what_cannot_be_read_is_unknown_only_if_a_node_has_the_label() -> None:
    assert findings(RuleMonitor(), node()) == []
    unread = ReadFailure("not allowed: ciliumnodes")
    assert findings(RuleMonitor(unread, unread), node()) == [], "older permissions still suffice there"
    _, finding = findings(RuleMonitor(with_rules=unread), routed())
    assert finding.level is Level.UNKNOWN
    assert "list on ciliumnodes.cilium.io" in finding.next


def test_a_redirect_by_rules_on_such_a_node_is_a_problem_and_one_by_cilium_is_not() -> None:
    (finding,) = findings(RuleMonitor(), routed())
    assert finding.level is Level.PROBLEM
    assert f"1 node has the label {LABEL}=true" in finding.says
    assert "set nmi.redirect.backend to cilium" in finding.next
    (finding,) = findings(RuleMonitor(), routed(), flags=("--redirect=cilium",))
    assert finding.level is Level.OK


@pytest.mark.parametrize(
    "changes",
    [
        {"nmi": ReadFailure("not allowed: pods")},
        {"nmi": (nmi("--redirect"),)},
        {"nmi": (nmi("--redirect=cilium", node="node-2"),)},
    ],
    ids=["unread", "unreadable flags", "none there"],
)
def test_the_redirect_of_an_nmi_whose_flags_are_not_known_is_unknown(changes: dict[str, Any]) -> None:
    report = examined(objects=objects(nodes=(routed(),)), **changes)
    (finding,) = (finding for finding in report.findings if finding.check == CHECK)
    assert finding.level is Level.UNKNOWN
    assert "NMI's flags are not known: node-1" in finding.says


def test_the_label_of_a_cilium_node_is_a_problem_only_with_ebpf_host_routing() -> None:
    monitor = RuleMonitor(frozenset({"node-1"}))
    (finding,) = findings(monitor, node())
    assert (finding.level, "AKS refuses to enable eBPF host routing" in finding.says) == (Level.OK, True)
    _, finding = findings(monitor, routed())
    assert finding.level is Level.PROBLEM
    assert f"{RULES_LABEL}=true: rules of iptables keep Cilium's agent from starting on node-1" in finding.says
    assert "nmi --cleanup" in finding.next


@pytest.mark.parametrize(("reason", "then"), [(UNEXPECTED, "nmi --cleanup"), (BLOCKED, "azure-block-iptables")])
def test_events_about_existing_nodes_are_reported_with_the_next_action(reason: str, then: str) -> None:
    monitor = RuleMonitor(events={reason: frozenset({"node-1", "forged"})})
    (finding,) = findings(monitor, node())
    assert finding.level is Level.WARNING
    assert f"Events {reason} of AKS exist about 1 node: node-1" in finding.says
    assert then in finding.next
    assert "do not bypass" in finding.next or reason == UNEXPECTED


def test_events_beyond_the_limit_are_unknown() -> None:
    monitor = RuleMonitor(events={BLOCKED: frozenset({"node-1"})}, with_more_events=frozenset({BLOCKED}))
    known, more = findings(monitor, node())
    assert (known.level, more.level) == (Level.WARNING, Level.UNKNOWN)
    assert f"only the first {EVENTS_MAX} Events {BLOCKED} were read" in more.says
    assert f"reason={BLOCKED}" in more.next


@pytest.mark.parametrize(
    ("fault", "says"), [("the chain is missing", "NMI writes no rule"), (None, "the rule is there")]
)
def test_on_the_node_the_kubelets_flags_suffice(fault: str | None, says: str) -> None:
    (finding,) = check_redirect(NodeState(name="node-1", fault=fault, ebpf=True))
    assert (finding.level, says in finding.message, LABEL in finding.message) == (Level.PROBLEM, True, True)
    assert ("nmi.redirect.backend=cilium" in finding.next) is (fault is not None)
    assert ("nmi --cleanup" in finding.next) is (fault is None)


def event(cluster: MemoryCluster, name: str, reason: str, about: str, kind: str = "Node") -> None:
    meta = {"name": name, "namespace": "default"}
    document = {"metadata": meta, "involvedObject": {"kind": kind, "name": about}, "reason": reason}
    cluster.api.store.create("events", document)


async def test_the_events_about_nodes_are_read_up_to_a_limit(cluster: MemoryCluster) -> None:
    event(cluster, "a", UNEXPECTED, "n0")
    event(cluster, "b", UNEXPECTED, "n1")
    event(cluster, "c", BLOCKED, "n1")
    event(cluster, "d", "Rebooted", "n2")
    event(cluster, "e", UNEXPECTED, "pod", kind="Pod")
    monitor = await read_rule_monitor(cluster.client)
    assert monitor.with_rules == frozenset(), "a cluster without Cilium"
    assert monitor.events == {UNEXPECTED: frozenset({"n0", "n1"}), BLOCKED: frozenset({"n1"})}
    for number in range(2 * EVENTS_MAX):
        event(cluster, f"forged-{number:04}", BLOCKED, f"f{number}")
    assert monitor.with_more_events == frozenset()
    monitor = await read_rule_monitor(cluster.client)
    assert isinstance(monitor.events, dict)
    assert len(monitor.events[BLOCKED]) < 2 * EVENTS_MAX
    assert monitor.with_more_events == frozenset({BLOCKED})


async def test_cilium_nodes_are_read_by_their_label(cluster: MemoryCluster) -> None:
    names = {"plural": "ciliumnodes", "singular": "ciliumnode", "kind": "CiliumNode", "listKind": "CiliumNodeList"}
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    version = {"name": "v2", "served": True, "storage": True, "schema": schema}
    definition = {
        "metadata": {"name": "ciliumnodes.cilium.io"},
        "spec": {"group": "cilium.io", "scope": "Cluster", "names": names, "versions": [version]},
    }
    cluster.api.store.create("customresourcedefinitions.apiextensions.k8s.io", definition)
    for name, value in (("n0", "true"), ("n1", "false")):
        labels = {RULES_LABEL: value}
        cluster.api.store.create("ciliumnodes.cilium.io", {"metadata": {"name": name, "labels": labels}, "spec": {}})
    assert (await read_rule_monitor(cluster.client)).with_rules == frozenset({"n0"})
    cluster.api.refuse(403, "Forbidden")
    monitor = await read_rule_monitor(cluster.client)
    assert isinstance(monitor.with_rules, ReadFailure)
    assert isinstance(monitor.events, ReadFailure)
