"""The output of `nft -j list table`, as newer versions than Debian's write it, and text that is no list.

Excluded: real tables (`test_nftables_in_force`). nft 1.0.6 lists a dormant table as broken JSON.
"""

import json
from typing import Any

import pytest

from nmi.node.nftables_driver import FoundChain, clear_commands, parsed, put_commands
from nmi.node.rules import TABLE, RedirectSpec

TO = RedirectSpec("169.254.169.254", 80, "127.0.0.1", 2579)


def listing(**attributes: object) -> str:
    return listed({"table": {"family": "ip", "name": "aad-pod-identity", "handle": 1, **attributes}})


def listed(*entries: dict[str, Any]) -> str:
    return json.dumps({"nftables": [{"metainfo": {"version": "1.1.1"}}, *entries]})


@pytest.mark.parametrize("flags", ["dormant", ["dormant"], ["persist", "owner"]])
def test_a_table_with_flags_is_not_in_force(flags: object) -> None:
    assert "flags" in (parsed(listing(flags=flags)).foreign or "")


def test_a_table_without_flags_is_nmis() -> None:
    table = parsed(listing())
    assert table.exists
    assert table.foreign is None


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


def test_a_counter_and_a_named_family_make_no_difference() -> None:
    made = [json.loads(each) for each in TO.redirect.base.expressions]
    made[-1]["dnat"]["family"] = "ip"
    rule = {"rule": {"chain": "prerouting", "expr": [*made[:-1], {"counter": {"packets": 7, "bytes": 420}}, made[-1]]}}
    found = FoundChain(parsed(listed({"table": {"name": "aad-pod-identity"}}, CHAIN, rule)), "prerouting")
    assert found.fault(TO.redirect) is None


def test_another_family_is_a_difference() -> None:
    made = [json.loads(each) for each in TO.redirect.base.expressions]
    made[-1]["dnat"]["family"] = "ip6"
    found = FoundChain(parsed(listed(CHAIN, {"rule": {"chain": "prerouting", "expr": made}})), "prerouting")
    assert found.fault(TO.redirect) == "the rule has other conditions"


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"nftables": 1}', '{"nftables": [1]}', '{"nftables": [{"table": 1}]}', "[" * 100_000]
)
def test_a_table_that_cannot_be_read_is_damaged_and_written_again(text: str) -> None:
    table = parsed(text)
    assert "cannot be read as JSON" in (FoundChain(table, "prerouting").fault(TO.redirect) or "")
    assert not FoundChain(table, "prerouting").nothing
    assert put_commands(table, TO.redirect.base)[1] == {"delete": {"table": {"family": "ip", "name": TABLE}}}
    assert clear_commands(table, "prerouting") == [{"delete": {"table": {"family": "ip", "name": TABLE}}}]
