"""The rules, the scripts that add and remove them, and the output of `nft -j list table`, as text.

The latter also as newer versions than Debian's write it, and text that is no list: nft 1.0.6 lists a dormant table as
broken JSON. Excluded: real tables (test_redirect_in_force, test_redirect_repair).
"""

import json
from typing import Any

import pytest

from nmi.node.nft_driver import clear_script, put_script
from nmi.node.nftables_driver import NftablesRuleState, clear_commands, parsed, put_commands
from nmi.node.rule_text import leads_to, normalized
from nmi.node.rules import TABLE, IptablesRuleState, RedirectSpec, TopRule

TO = RedirectSpec("169.254.169.254", 80, "127.0.0.1", 2579)
RULE = TO.redirect
NF_IP_PRI_NAT_DST, NF_IP_PRI_FILTER = -100, 0
"""Priorities of the kernel: that of iptables, and of kube-proxy in nftables mode (`dstnat` in nft), and `filter`."""
REJECT = "-d 169.254.169.254/32 -p tcp -m tcp --dport 80 -j REJECT --reject-with tcp-reset"


def test_both_rules_come_before_those_of_iptables_of_kube_proxy_and_of_other_programs() -> None:
    for rule, place, priority in (
        (TO.redirect, ("nat", "prerouting"), NF_IP_PRI_NAT_DST),
        (TO.reject, ("filter", "forward"), NF_IP_PRI_FILTER),
    ):
        assert (rule.base.type, rule.base.hook) == place
        assert rule.base.priority < priority


def test_the_script_recreates_the_chain_and_the_first_jump_in_one_transaction() -> None:
    before = (
        "-P PREROUTING ACCEPT\n-A PREROUTING -j OTHER\n-A PREROUTING -j aad-metadata\n-A PREROUTING -g aad-metadata\n"
    )
    assert put_script(before, RULE).splitlines() == [
        "*nat",
        ":aad-metadata - [0:0]",
        "-D PREROUTING -j aad-metadata",
        "-D PREROUTING -g aad-metadata",
        "-A aad-metadata " + RULE.rules[0],
        "-A aad-metadata -j RETURN",
        "-I PREROUTING 1 -j aad-metadata",
        "COMMIT",
    ]


def test_the_reject_rule_has_its_own_chain_in_the_filter_table() -> None:
    assert TO.reject.text == REJECT
    before = f"-P FORWARD DROP\n-A FORWARD -j OTHER\n-A FORWARD {REJECT}\n-A FORWARD -d 10.0.0.1/32 -j REJECT\n"
    assert put_script(before, TO.reject).splitlines() == [
        "*filter",
        f"-D FORWARD {REJECT}",
        f"-I FORWARD 1 {REJECT}",
        "COMMIT",
    ]
    assert clear_script(before, TO.reject).splitlines() == ["*filter", f"-D FORWARD {REJECT}", "COMMIT"]


@pytest.mark.parametrize(
    ("rule", "ours"),
    [
        (REJECT, True),
        (REJECT.replace("-m tcp", '-m comment --comment "a comment" -m tcp'), True),
        (REJECT.replace("tcp-reset", "icmp-port-unreachable"), False),
        (f"-s 10.0.0.0/8 {REJECT}", False),
        (REJECT.replace("--dport 80", "--dport 8080"), False),
        (REJECT.replace("REJECT --reject-with tcp-reset", "DROP"), False),
    ],
)
def test_only_a_rule_equal_to_the_reject_rule_is_ours(rule: str, ours: bool) -> None:
    assert TO.reject.is_ours(rule) is ours


def test_a_reject_rule_is_faulty_unless_it_is_first_and_unique() -> None:
    assert IptablesRuleState(((1, REJECT),)).fault(TO.reject) is None
    assert IptablesRuleState(()).fault(TO.reject) == "the rule is missing"
    assert IptablesRuleState(((2, REJECT),)).fault(TO.reject) == "other rules come before the rule"
    assert IptablesRuleState(((1, REJECT), (5, REJECT))).fault(TO.reject) == "the rule is there more than once"


@pytest.mark.parametrize("rule", [TO.redirect, TO.reject], ids=["redirect", "reject"])
def test_without_our_rules_nothing_is_removed(rule: TopRule) -> None:
    assert clear_script(f"*nat\n:{rule.hook} ACCEPT [0:0]\n-A {rule.hook} -j OTHER\nCOMMIT\n", rule) == ""
    assert clear_script("", rule) == ""


def test_a_jump_in_a_foreign_chain_is_deleted_by_its_own_specification() -> None:
    saved = (
        "*nat\n:PREROUTING ACCEPT [0:0]\n:aad-metadata - [0:0]\n"
        '-A OUTPUT -m comment --comment "a \\"b\\"" -j aad-metadata\n-A aad-metadata -j RETURN\nCOMMIT\n'
    )
    assert '-D OUTPUT -m comment --comment "a \\"b\\"" -j aad-metadata' in clear_script(saved, RULE).splitlines()


@pytest.mark.parametrize(
    ("rule", "leads"),
    [
        ("-j aad-metadata", True),
        ("-i eth0 -g aad-metadata", True),
        ('-m comment --comment "-j aad-metadata" -j OTHER', False),
        ("-m comment --comment -j -j aad-metadata", True),
        ("-j aad-metadata-2", False),
        ('-m comment --comment "never closed -j aad-metadata', False),
    ],
)
def test_only_a_jump_option_refers_to_a_chain(rule: str, leads: bool) -> None:
    assert leads_to(rule, "aad-metadata") is leads


@pytest.mark.parametrize(
    "text",
    [
        "! -s 127.0.0.1 -d 169.254.169.254 -p 6 -m tcp --dport 80 -j DNAT --to-destination 127.0.0.1:2579",
        RULE.rules[0].replace("-m tcp", "-m comment --comment x -m tcp"),
    ],
    ids=["numbers and bare addresses", "with a comment"],
)
def test_spellings_of_other_iptables_versions_are_recognised(text: str) -> None:
    assert normalized(text) == RULE.rules[0]


def test_a_rule_is_faulty_unless_it_is_exactly_ours() -> None:
    jump = ((1, "-j aad-metadata"),)
    assert IptablesRuleState(jump, RULE.rules).fault(RULE) is None
    assert IptablesRuleState(((2, "-j aad-metadata"),), RULE.rules).fault(RULE) == "other rules come before the jump"
    assert IptablesRuleState(jump, RULE.rules[::-1]).fault(RULE) == "the chain holds other rules"
    assert IptablesRuleState(jump, ()).fault(RULE) == "the chain holds other rules"
    assert IptablesRuleState(()).fault(RULE) == "the chain is missing"
    elsewhere = RedirectSpec("169.254.169.254", 80, "127.0.0.1", 2580).redirect
    assert IptablesRuleState(jump, RULE.rules).fault(elsewhere) == "the chain holds other rules"


# The list of nft.


def listing(**attributes: object) -> str:
    return listed({"table": {"family": "ip", "name": "aad-pod-identity", "handle": 1, **attributes}})


def listed(*entries: dict[str, Any]) -> str:
    return json.dumps({"nftables": [{"metainfo": {"version": "1.1.1"}}, *entries]})


@pytest.mark.parametrize("flags", ["dormant", ["dormant"], ["persist", "owner"]])
def test_a_table_with_flags_is_not_in_force(flags: object) -> None:
    assert "flags" in (parsed(listing(flags=flags)).foreign or "")


def test_a_table_without_flags_is_nmis() -> None:
    assert (parsed(listing()).exists, parsed(listing()).foreign) == (True, None)


CHAIN = {
    "chain": {
        "family": "ip",
        "table": "aad-pod-identity",
        "name": "prerouting",
        "handle": 1,
        "type": "nat",
        "hook": "prerouting",
        "prio": -101,
        "policy": "accept",
    }
}


@pytest.mark.parametrize(("family", "fault"), [("ip", None), ("ip6", "the rule has other conditions")])
def test_a_counter_and_a_named_family_make_no_difference_and_another_family_does(
    family: str, fault: str | None
) -> None:
    made = [json.loads(expression) for expression in TO.redirect.base.expressions]
    made[-1]["dnat"]["family"] = family
    rule = {"rule": {"chain": "prerouting", "expr": [*made[:-1], {"counter": {"packets": 7, "bytes": 420}}, made[-1]]}}
    chain = NftablesRuleState(parsed(listed({"table": {"name": "aad-pod-identity"}}, CHAIN, rule)), "prerouting")
    assert chain.fault(TO.redirect) == fault


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"nftables": 1}', '{"nftables": [1]}', '{"nftables": [{"table": 1}]}', "[" * 100_000]
)
def test_a_table_that_cannot_be_read_is_damaged_and_written_again(text: str) -> None:
    table = parsed(text)
    assert "cannot be read as JSON" in (NftablesRuleState(table, "prerouting").fault(TO.redirect) or "")
    assert not NftablesRuleState(table, "prerouting").nothing
    assert put_commands(table, TO.redirect.base)[1] == {"delete": {"table": {"family": "ip", "name": TABLE}}}
    assert clear_commands(table, "prerouting") == [{"delete": {"table": {"family": "ip", "name": TABLE}}}]
