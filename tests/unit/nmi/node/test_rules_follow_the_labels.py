"""What `TrafficRedirect` writes on the node before its labels are known, and when they change, in virtual time.

Excluded: real tables (test_ebpf_host_routing), and how the labels are read (test_node_labels).
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from nmi.choices import RedirectMode, RedirectTarget, RouteLocalnetMode
from nmi.node import kubenet, leftovers, route_localnet, rule_removal, traffic_redirect
from nmi.node.connect_redirect import ConnectRedirect
from nmi.node.host_routing import LABEL, HostRouting
from nmi.node.node_facts import NetfilterPrograms, NodeReading
from nmi.node.redirect_choice import Backend, NodeFacts, TableFacts
from nmi.node.rules import IptablesRuleState, TopRule
from nmi.node.traffic_redirect import TrafficRedirect
from nmi.settings import NmiSettings
from podidentity.exits import StartError

GUARD, LOCALNET, REDIRECT, REJECT = "guard", "route_localnet", "nat", "filter"
EBPF = {LABEL: "true"}
MINUTE = 60.0


class Node:
    """The node: its driver of rules, route_localnet and its guard."""

    def __init__(self) -> None:
        self.written: set[str] = set()
        self.kubelet = HostRouting.UNKNOWN
        """What the kubelet's flags show."""
        self.unreadable = False
        """Whether reads of filter/INPUT fail."""
        self.slow_seconds = 0.0
        """How long a write takes."""

    async def find(self, rule: TopRule) -> IptablesRuleState:
        return (
            IptablesRuleState(((1, rule.text),), rule.rules or None)
            if rule.table in self.written
            else IptablesRuleState(())
        )

    async def packets(self, rule: TopRule) -> int | None:
        return None

    async def put(self, rule: TopRule) -> None:
        try:
            await asyncio.sleep(self.slow_seconds)
        finally:
            self.written.add(rule.table)  # a program that is killed may have written already

    async def detach(self, rule: TopRule) -> None:
        self.written.discard(rule.table)

    async def clear(self, rule: TopRule) -> None:
        self.written.discard(rule.table)

    async def remove_rules(self, *_: object, keep: Backend) -> list[str]:
        if keep is not Backend.NONE:
            return []
        removed = self.written & {REDIRECT, REJECT}
        self.written -= removed
        return sorted(removed)

    async def ensure_guard(self, iptables: str) -> bool:
        self.written.add(GUARD)
        return False

    async def has_guard(self, iptables: str) -> bool:
        if self.unreadable:
            raise StartError("filter/INPUT cannot be read")
        return GUARD in self.written

    async def remove_guard(self, iptables: str) -> None:
        self.written.discard(GUARD)

    def fault(self) -> str | None:
        return None if LOCALNET in self.written else "route_localnet is 0"

    async def driver(self, *_: object) -> "Node":
        return self

    async def facts(self, **_: object) -> NodeReading:
        facts = NodeFacts(iptables_legacy=TableFacts(1, frozenset()), programs=frozenset({Backend.IPTABLES_LEGACY}))
        return NodeReading(facts, NetfilterPrograms(legacy="iptables"), frozenset({"nat", "filter"}))


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Node:
    node = Node()
    monkeypatch.setattr(traffic_redirect, "read_facts", node.facts)
    monkeypatch.setattr(traffic_redirect, "driver_for", node.driver)
    monkeypatch.setattr(ConnectRedirect, "check", lambda _: asyncio.sleep(0))
    monkeypatch.setattr(traffic_redirect, "LOCK", tmp_path / "xtables.lock")
    monkeypatch.setattr(kubenet, "check", lambda *_, **__: None)
    monkeypatch.setattr(traffic_redirect, "by_kubelet", lambda _: node.kubelet)
    monkeypatch.setattr(rule_removal, "existing_legacy_tables", lambda: frozenset({"nat", "filter"}))
    monkeypatch.setattr(leftovers, "remove", node.remove_rules)
    for name in ("ensure_guard", "has_guard", "remove_guard", "fault"):
        monkeypatch.setattr(route_localnet, name, getattr(node, name))
    monkeypatch.setattr(route_localnet, "switch_on", lambda: node.written.add(LOCALNET))
    monkeypatch.setattr(route_localnet, "is_on_anywhere", lambda: LOCALNET in node.written)
    return node


@asynccontextmanager
async def maintained(*, fail_closed: bool = True) -> AsyncIterator[TrafficRedirect]:
    """The redirect after the wait for the first labels, which the API server has not returned."""
    settings = NmiSettings(
        node_name="n",
        redirect=RedirectMode.IPTABLES_LEGACY,
        redirect_target=RedirectTarget.LOOPBACK,
        route_localnet=RouteLocalnetMode.SET,
        fail_closed=fail_closed,
        redirect_interval_seconds=60,
    )
    redirect = TrafficRedirect(settings)
    await redirect.prepare()
    await redirect.note_labels(None)
    task = asyncio.create_task(redirect.maintain())
    try:
        yield redirect
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.mark.parametrize("existing", [set[str](), {REDIRECT, REJECT}], ids=["no rules", "rules of an earlier NMI"])
async def test_nothing_is_written_before_the_labels_are_known(node: Node, existing: set[str]) -> None:
    node.written |= existing
    async with maintained() as redirect:
        await asyncio.sleep(3 * MINUTE)
        assert node.written == existing, "pods stay blocked"
        assert "the labels of this node are not known yet" in (redirect.problem() or "")
        await redirect.note_labels(EBPF)
        await redirect.install()
        await asyncio.sleep(3 * MINUTE)
        assert node.written == set()


async def test_labels_that_arrive_late_permit_everything(node: Node) -> None:
    async with maintained() as redirect:
        decided = asyncio.create_task(redirect.decided())
        await asyncio.sleep(MINUTE)
        assert not decided.done(), "NMI's start waits for them"
        await redirect.note_labels({})
        await asyncio.wait_for(decided, 1.0)
        assert node.written == {REJECT}
        await redirect.install()
        assert node.written == {REJECT, REDIRECT, GUARD, LOCALNET}
        node.written.clear()
        await asyncio.sleep(MINUTE + 1)
        assert node.written == {REJECT, REDIRECT, GUARD, LOCALNET}, "and they are maintained"


async def test_a_start_does_not_wait_where_the_kubelets_flags_permit_rules(node: Node) -> None:
    node.kubelet = HostRouting.NETFILTER
    async with maintained() as redirect:
        await asyncio.wait_for(redirect.decided(), 1.0)
        assert node.written == {REJECT}
        await redirect.install()
        assert redirect.problem() is None


async def test_a_label_that_arrives_late_removes_the_rules_for_good(node: Node) -> None:
    node.kubelet = HostRouting.NETFILTER
    async with maintained() as redirect:
        assert node.written == {REJECT}
        await redirect.install()
        await asyncio.sleep(2.5 * MINUTE)
        await redirect.note_labels({})
        assert {REJECT, REDIRECT, GUARD} <= node.written
        node.written.discard(LOCALNET)
        await redirect.note_labels(EBPF)
        assert node.written == set()
        assert "so NMI writes no rule" in (redirect.problem() or "")
        await redirect.note_labels({})
        await redirect.install()
        await asyncio.sleep(3 * MINUTE)
        assert node.written == set()


async def test_a_label_that_arrives_during_a_write_removes_the_written_rule(node: Node) -> None:
    node.kubelet = HostRouting.NETFILTER
    async with maintained(fail_closed=False) as redirect:
        node.slow_seconds = 1.0
        installing = asyncio.create_task(redirect.install())
        await asyncio.sleep(0.5)
        node.written.discard(LOCALNET)
        await redirect.note_labels(EBPF)
        await installing
        assert node.written == set()


async def test_a_repair_in_progress_ends_when_the_label_arrives(node: Node) -> None:
    node.kubelet = HostRouting.NETFILTER
    async with maintained() as redirect:
        await redirect.install()
        await asyncio.sleep(1.0)
        node.written.discard(REDIRECT)
        node.slow_seconds = 1.0
        await asyncio.sleep(MINUTE - 0.5)
        assert REDIRECT not in node.written, "it is being restored"
        node.written.discard(LOCALNET)
        await redirect.note_labels(EBPF)
        await asyncio.sleep(2.0)
        assert node.written == set()


async def test_rules_that_appear_later_on_a_node_with_the_label_are_removed(node: Node) -> None:
    """For example by the Go implementation's NMI, or by rules that were saved and restored."""
    node.kubelet = HostRouting.EBPF
    async with maintained() as redirect:
        await redirect.install()
        await asyncio.sleep(3 * MINUTE)
        node.written |= {REDIRECT, REJECT, GUARD}
        await asyncio.sleep(MINUTE)
        assert node.written == set()


async def test_a_guard_that_may_remain_is_reported_and_removed_later(node: Node) -> None:
    node.kubelet = HostRouting.EBPF
    node.written = {GUARD}
    node.unreadable = True
    async with maintained() as redirect:
        assert "filter/INPUT cannot be read" in (redirect.problem() or "")
        node.unreadable = False
        await asyncio.sleep(MINUTE + 1)
        assert node.written == set()
        assert "filter/INPUT" not in (redirect.problem() or "")
