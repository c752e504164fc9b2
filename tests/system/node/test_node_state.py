"""What a program has left in the tables of a node, from listings of nft and iptables-legacy-save."""

import pytest

from tests.system.node.node_state import NodeState, legacy_lines, nft_lines

BASE = """\
# Warning: table ip nat is managed by iptables-nft, do not touch!
table ip nat {
	chain PREROUTING {
		type nat hook prerouting priority dstnat; policy accept;
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
HOOK = "type nat hook prerouting priority dstnat - 1; policy accept;"
NATIVE = f"""\
table ip aad-pod-identity {{
	chain prerouting {{
		{HOOK}
	}}
}}
"""
LEGACY = "*nat\n:PREROUTING ACCEPT [0:0]\n:aad-metadata - [0:0]\n-A PREROUTING -j aad-metadata\nCOMMIT\n"


def state(listing: str = "", *settings: str, legacy: str = "") -> NodeState:
    return NodeState(frozenset({*nft_lines(listing), *legacy_lines("nat", legacy)}), frozenset(settings))


@pytest.mark.parametrize(
    ("before", "after", "left"),
    [
        pytest.param(state(), state(BASE), [], id="base chains of iptables"),
        pytest.param(state(OURS), state(OURS), [], id="what was there before"),
        pytest.param(
            state(BASE),
            state(OURS),
            ["table ip nat: chain PREROUTING: counter jump aad-metadata", "table ip nat: chain aad-metadata"],
            id="a rule and a chain",
        ),
        pytest.param(
            state(),
            state(NATIVE),
            [
                "table ip aad-pod-identity",
                "table ip aad-pod-identity: chain prerouting",
                f"table ip aad-pod-identity: chain prerouting: {HOOK}",
            ],
            id="a table of another program",
        ),
        pytest.param(
            state(),
            state(legacy=LEGACY),
            ["legacy table nat: -A PREROUTING -j aad-metadata", "legacy table nat: :aad-metadata -"],
            id="the legacy backend",
        ),
        pytest.param(state("", "local = 0"), state("", "local = 1"), ["local = 1"], id="a changed setting"),
    ],
)
def test_rules_chains_and_settings_count_unless_the_kernel_made_them(
    before: NodeState, after: NodeState, left: list[str]
) -> None:
    assert after.left_since(before) == left
