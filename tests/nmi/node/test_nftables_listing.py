"""The output of `nft -j list table`, as newer versions than Debian's write it, and text that is no list.

Excluded: real tables (`test_nftables_in_force`). nft 1.0.6 lists a dormant table as broken JSON.
"""

import json

import pytest

from nmi.node.nftables_driver import parsed


def listing(**attributes: object) -> str:
    table = {"family": "ip", "name": "aad-pod-identity", "handle": 1, **attributes}
    return json.dumps({"nftables": [{"metainfo": {"version": "1.1.1"}}, {"table": table}]})


@pytest.mark.parametrize("flags", ["dormant", ["dormant"], ["persist", "owner"]])
def test_a_table_with_flags_is_not_in_force(flags: object) -> None:
    assert "flags" in (parsed(listing(flags=flags)).foreign or "")


def test_a_table_without_flags_is_nmis() -> None:
    table = parsed(listing())
    assert table.exists
    assert table.foreign is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"nftables": 1}', '{"nftables": [{"table": 1}]}', "[" * 100_000])
def test_a_text_that_is_no_list_is_damage(text: str) -> None:
    assert "cannot be read" in (parsed(text).foreign or "")
