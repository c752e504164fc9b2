"""What a program has left in the tables of a node, from listings of nft and iptables-legacy-save."""

from tests.realnode.node_state import NodeState, legacy_lines, nft_lines

EMPTY = NodeState(frozenset(), frozenset())
BASE = """\
# Warning: table ip nat is managed by iptables-nft, do not touch!
table ip nat {
	chain PREROUTING {
		type nat hook prerouting priority dstnat; policy accept;
	}
}
"""
OF_THE_KUBELET = """\
table ip mangle {
	chain KUBE-KUBELET-CANARY {
	}
}
table ip6 nat {
	chain KUBE-KUBELET-CANARY {
	}
}
"""
OURS = """\
table ip nat {
	chain PREROUTING {
		type nat hook prerouting priority dstnat; policy accept;
		counter jump aad-metadata
	}

	chain aad-metadata {
	}
}
"""
NATIVE = """\
table ip aad-pod-identity {
	chain prerouting {
		type nat hook prerouting priority dstnat - 1; policy accept;
	}
}
"""


def without_kubernetes(listing: str) -> NodeState:
    """Return the state without lines of kube-proxy and the kubelet, as read_node_state does."""
    return NodeState(frozenset(line for line in nft_lines(listing) if "KUBE-" not in line), frozenset())


def state(listing: str = "", *settings: str, legacy: str = "") -> NodeState:
    return NodeState(frozenset({*nft_lines(listing), *legacy_lines("nat", legacy)}), frozenset(settings))


def test_empty_base_chains_of_iptables_do_not_count() -> None:
    assert state(BASE).left_since(EMPTY) == []


def test_tables_that_the_kubelet_creates_again_after_a_flush_do_not_count() -> None:
    assert without_kubernetes(OF_THE_KUBELET).left_since(EMPTY) == []


def test_a_rule_and_a_chain_in_a_table_of_iptables_count() -> None:
    assert state(OURS).left_since(state(BASE)) == [
        "table ip nat: chain PREROUTING: counter jump aad-metadata",
        "table ip nat: chain aad-metadata",
    ]


def test_an_empty_table_of_another_program_counts_with_its_chain() -> None:
    left = state(NATIVE).left_since(EMPTY)
    assert "table ip aad-pod-identity" in left
    assert "table ip aad-pod-identity: chain prerouting" in left


def test_what_was_there_before_does_not_count() -> None:
    assert state(OURS).left_since(state(OURS)) == []


def test_rules_and_chains_of_the_legacy_backend_count() -> None:
    saved = "*nat\n:PREROUTING ACCEPT [0:0]\n:aad-metadata - [0:0]\n-A PREROUTING -j aad-metadata\nCOMMIT\n"
    assert state(legacy=saved).left_since(EMPTY) == [
        "legacy table nat: -A PREROUTING -j aad-metadata",
        "legacy table nat: :aad-metadata -",
    ]


def test_a_changed_setting_counts() -> None:
    assert state("", "route_localnet = 1").left_since(state("", "route_localnet = 0")) == ["route_localnet = 1"]
