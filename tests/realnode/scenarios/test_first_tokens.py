"""The first token of a pod on a real node, for each type of identity that needs no certificate."""

from tests.realnode.bed import Bed
from tests.realnode.scenario import Scenarios


def test_a_pod_gets_the_token_of_its_user_assigned_identity(scenarios: Scenarios) -> None:
    result = scenarios.measure("no event", lambda: None)
    assert result.interruption_seconds == 0
    assert (result.leaked, result.wrong, result.refused, result.failed) == (0, 0, 0, 0)


def test_the_nat_rule_of_the_node_redirects_to_nmi(bed: Bed, scenarios: Scenarios) -> None:
    rules = bed.nodes[0].run("iptables-save", "--table", "nat")
    assert "169.254.169.254" in rules
