"""This machine as a node: the rule, its counter, kubenet, IMDS."""

import pytest

from podidctl.diagnosis.input import ReadFailure
from podidctl.doctor.node_checks import NodeState
from podidctl.doctor.report import report
from podidctl.doctor.schema import Finding, Level
from tests.podidctl.doctor_inputs import seen


def lines_of(node: NodeState) -> list[Finding]:
    findings = report(seen(), node).findings
    return [each for each in findings if each.check in {"nat rule", "redirects", "kubenet", "IMDS"}]


def bad_of(node: NodeState) -> list[Finding]:
    return [each for each in lines_of(node) if each.level is not Level.OK]


def test_a_rule_with_matching_packets_is_ok() -> None:
    assert bad_of(NodeState(name="node-1", fault=None, packets=8, pods=1)) == []


def test_a_counter_of_zero_while_pods_run_is_reported_with_its_usual_cause() -> None:
    (line,) = bad_of(NodeState(name="node-1", fault=None, packets=0, pods=3))
    assert (line.check, line.level) == ("redirects", Level.WARNING)
    assert "eBPF" in line.next
    assert bad_of(NodeState(name="node-1", fault=None, packets=0, pods=0)) == []


@pytest.mark.parametrize(
    ("node", "check", "level"),
    [
        (NodeState(name="n", fault="the chain is missing"), "nat rule", Level.PROBLEM),
        (NodeState(name="n", fault=ReadFailure("needs root")), "nat rule", Level.UNKNOWN),
        (NodeState(name="n", fault=None, packets=None), "redirects", Level.UNKNOWN),
        (NodeState(name="n", fault=None, packets=1, kubenet=True), "kubenet", Level.WARNING),
        (NodeState(name="n", fault=None, packets=1, imds=ReadFailure("no answer")), "IMDS", Level.PROBLEM),
    ],
)
def test_a_fault_is_reported(node: NodeState, check: str, level: Level) -> None:
    (line,) = bad_of(node)
    assert (line.check, line.level) == (check, level)
    assert line.next or level is Level.UNKNOWN


def test_a_rule_that_packets_bypass_is_a_problem_with_the_next_action() -> None:
    (line,) = bad_of(NodeState(name="n", fault=None, packets=0, pods=3, bypass="Cilium runs here; use another"))
    assert (line.check, line.level, line.next) == ("redirects", Level.PROBLEM, "use another")
    assert line.says == "node n: Cilium runs here"


def test_backend_and_target_are_reported_with_their_reason() -> None:
    findings = report(seen(), NodeState(name="n", fault=None, packets=1, choice="nftables to node: why")).findings
    assert ("backend", Level.OK, "node n: nftables to node: why") in {(f.check, f.level, f.says) for f in findings}


def test_a_missing_rule_is_ok_if_none_is_configured() -> None:
    assert bad_of(NodeState(name="n", fault=None, wanted=False)) == []


def test_imds_is_reported_only_if_it_was_probed() -> None:
    assert "IMDS" not in {each.check for each in lines_of(NodeState(name="n", fault=None, packets=1))}
    findings = lines_of(NodeState(name="n", fault=None, packets=1, imds="it answers"))
    assert ("IMDS", Level.OK) in {(each.check, each.level) for each in findings}


def test_a_counter_of_zero_without_readable_pods_is_unknown() -> None:
    (line,) = bad_of(NodeState(name="node-1", fault=None, packets=0, pods=None))
    assert (line.check, line.level) == ("redirects", Level.UNKNOWN)
