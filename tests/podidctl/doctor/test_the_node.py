"""This machine as a node: the rule, its counter, kubenet, IMDS."""

import pytest

from nmi.node.traffic_redirect import redirect_spec
from nmi.settings import Settings
from podidctl.diagnosis.input import ReadFailure
from podidctl.doctor.node_checks import NodeState, packets_in
from podidctl.doctor.report import report
from podidctl.doctor.schema import Finding, Level
from tests.podidctl.doctor_inputs import seen

RULE = redirect_spec(Settings(node_name="node-1")).redirect.rules[0]
SAVED = f"""*nat
:PREROUTING ACCEPT [1:60]
:aad-metadata - [0:0]
[10:600] -A PREROUTING -j aad-metadata
[8:480] -A aad-metadata {RULE}
[2:120] -A aad-metadata -j RETURN
COMMIT
"""


def lines_of(node: NodeState) -> list[Finding]:
    findings = report(seen(), node).findings
    return [each for each in findings if each.check in {"nat rule", "redirects", "kubenet", "IMDS"}]


def bad_of(node: NodeState) -> list[Finding]:
    return [each for each in lines_of(node) if each.level is not Level.OK]


def test_the_packet_counter_of_the_rule_is_read() -> None:
    assert packets_in(SAVED, RULE) == 8
    assert packets_in(SAVED.replace("127.0.0.1:2579", "127.0.0.1:2580"), RULE) is None
    assert packets_in("", RULE) is None


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


def test_a_missing_rule_is_ok_if_none_is_configured() -> None:
    assert bad_of(NodeState(name="n", fault=None, wanted=False)) == []


def test_imds_is_reported_only_if_it_was_probed() -> None:
    assert "IMDS" not in {each.check for each in lines_of(NodeState(name="n", fault=None, packets=1))}
    findings = lines_of(NodeState(name="n", fault=None, packets=1, imds="it answers"))
    assert ("IMDS", Level.OK) in {(each.check, each.level) for each in findings}


def test_a_counter_of_zero_without_readable_pods_is_unknown() -> None:
    (line,) = bad_of(NodeState(name="node-1", fault=None, packets=0, pods=None))
    assert (line.check, line.level) == ("redirects", Level.UNKNOWN)
