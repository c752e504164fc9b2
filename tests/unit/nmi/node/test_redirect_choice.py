"""The choice of backend and target from facts, and evidence that the redirect has no effect.

Excluded: reading the facts on a real node (test_node_facts), and real packets (test_packets).
"""

import pytest
from typing_extensions import override

from nmi.choices import RedirectMode, RedirectTarget
from nmi.node.connect_redirect import ConnectRedirect
from nmi.node.effect import LIST_EVERY, RedirectEffect
from nmi.node.redirect_choice import Backend, NodeFacts, TableFacts, bypass, choose
from podidentity.exits import StartError

KUBELET = TableFacts(0, frozenset({"KUBE-KUBELET-CANARY"}))
HINT = TableFacts(0, frozenset({"KUBE-IPTABLES-HINT"}))
EMPTY = TableFacts()
NO_TABLES: frozenset[tuple[str, str]] = frozenset()
KUBE_PROXY = frozenset({("ip", "kube-proxy"), ("ip6", "kube-proxy")})
LEGACY = frozenset({Backend.IPTABLES_LEGACY})
OFF = "route_localnet is 0"


def rules(count: int) -> TableFacts:
    return TableFacts(count)


def backend_for(mode: RedirectMode = RedirectMode.AUTO, **facts: object) -> Backend:
    return choose(NodeFacts(**facts), mode, RedirectTarget.AUTO).backend  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", [RedirectMode.AUTO, RedirectMode.NAT])
@pytest.mark.parametrize("tables", [NO_TABLES, None])
@pytest.mark.parametrize(
    ("nft", "legacy", "backend"),
    [
        (HINT, rules(9), Backend.IPTABLES_NFT),
        (KUBELET, rules(9), Backend.IPTABLES_NFT),
        (rules(9), HINT, Backend.IPTABLES_LEGACY),
        (rules(9), KUBELET, Backend.IPTABLES_LEGACY),
        (HINT, KUBELET, Backend.IPTABLES_NFT),
        (rules(1), rules(2), Backend.IPTABLES_LEGACY),
        (rules(2), rules(1), Backend.IPTABLES_NFT),
        (rules(1), rules(1), Backend.IPTABLES_NFT),
        (rules(1), None, Backend.IPTABLES_NFT),
        (None, rules(1), Backend.IPTABLES_LEGACY),
    ],
)
def test_a_node_with_rules_of_iptables_keeps_its_backend(
    nft: TableFacts | None,
    legacy: TableFacts | None,
    backend: Backend,
    tables: frozenset[tuple[str, str]] | None,
    mode: RedirectMode,
) -> None:
    assert backend_for(mode, iptables_nft=nft, iptables_legacy=legacy, nft_tables=tables) is backend


@pytest.mark.parametrize("nft", [EMPTY, HINT, rules(9), None])
@pytest.mark.parametrize("legacy", [EMPTY, rules(9), None])
def test_kube_proxy_in_nftables_mode_selects_nftables(nft: TableFacts | None, legacy: TableFacts | None) -> None:
    assert backend_for(iptables_nft=nft, iptables_legacy=legacy, nft_tables=KUBE_PROXY) is Backend.NFTABLES


@pytest.mark.parametrize(
    ("facts", "backend"),
    [
        ({"iptables_nft": HINT, "nft_tables": frozenset({("ip6", "kube-proxy")})}, Backend.IPTABLES_NFT),
        ({"iptables_nft": EMPTY, "iptables_legacy": EMPTY, "nft_tables": NO_TABLES}, Backend.NFTABLES),
        ({"iptables_nft": EMPTY, "nft_tables": NO_TABLES}, Backend.NFTABLES),
        ({"iptables_legacy": EMPTY, "nft_tables": NO_TABLES}, Backend.NFTABLES),
        ({"nft_tables": NO_TABLES}, Backend.NFTABLES),
        ({"iptables_nft": EMPTY, "programs": LEGACY}, Backend.IPTABLES_NFT),
        ({"iptables_nft": EMPTY, "iptables_legacy": EMPTY, "programs": LEGACY}, Backend.IPTABLES_NFT),
        ({"programs": LEGACY}, Backend.IPTABLES_LEGACY),
    ],
)
def test_without_rules_of_iptables_the_node_uses_nftables_where_nft_is_usable(
    facts: dict[str, object], backend: Backend
) -> None:
    assert backend_for(**facts) is backend  # type: ignore[arg-type]


def test_without_any_program_the_error_names_the_packages() -> None:
    with pytest.raises(StartError, match=r"install the packages iptables .* and nftables"):
        choose(NodeFacts(), RedirectMode.AUTO, RedirectTarget.AUTO)


@pytest.mark.parametrize("mode", [RedirectMode.IPTABLES_LEGACY, RedirectMode.IPTABLES_NFT, RedirectMode.NFTABLES])
def test_a_required_backend_is_used_against_the_evidence_and_refused_only_if_unusable(mode: RedirectMode) -> None:
    facts = NodeFacts(
        iptables_nft=HINT, nft_tables=KUBE_PROXY, programs=frozenset({Backend.IPTABLES_LEGACY, Backend.IPTABLES_NFT})
    )
    assert choose(facts, mode, RedirectTarget.AUTO).backend == mode.value
    with pytest.raises(StartError, match=f"--redirect={mode} is not usable on this node"):
        choose(NodeFacts(), mode, RedirectTarget.AUTO)


@pytest.mark.parametrize(
    ("problem", "address", "listen", "sets", "target"),
    [
        (None, "10.0.0.4", "127.0.0.1", False, RedirectTarget.LOOPBACK),
        (OFF, "10.0.0.4", "127.0.0.1", False, RedirectTarget.NODE),
        (OFF, "10.0.0.4", "127.0.0.1", True, RedirectTarget.LOOPBACK),
        (OFF, "10.0.0.4", "10.0.0.5", False, RedirectTarget.LOOPBACK),
        (OFF, None, "127.0.0.1", False, RedirectTarget.LOOPBACK),
    ],
)
def test_the_target_is_the_node_where_loopback_is_not_reached(
    problem: str | None, address: str | None, listen: str, sets: bool, target: RedirectTarget
) -> None:
    facts = NodeFacts(iptables_nft=HINT, localnet_problem=problem, node_address=address)
    choice = choose(facts, RedirectMode.AUTO, RedirectTarget.AUTO, listen_address=listen, sets_localnet=sets)
    assert choice.target is target


@pytest.mark.parametrize(
    ("mode", "target"), [(RedirectMode.CILIUM, RedirectTarget.NODE), (RedirectMode.NONE, RedirectTarget.LOOPBACK)]
)
def test_without_rules_no_program_is_required(mode: RedirectMode, target: RedirectTarget) -> None:
    choice = choose(NodeFacts(node_address="10.0.0.4"), mode, RedirectTarget.AUTO)
    assert (choice.backend, choice.target) == (mode.value, target)


@pytest.mark.parametrize("target", [RedirectTarget.LOOPBACK, RedirectTarget.NODE])
def test_a_required_target_is_used_against_the_evidence(target: RedirectTarget) -> None:
    for problem in (None, OFF):
        facts = NodeFacts(iptables_nft=HINT, localnet_problem=problem, node_address="10.0.0.4")
        assert choose(facts, RedirectMode.AUTO, target).target is target


def test_the_target_node_without_an_address_ends_with_the_next_action() -> None:
    with pytest.raises(StartError, match=r"set NODE_IP in NMI's env from status\.hostIP"):
        choose(NodeFacts(iptables_nft=HINT), RedirectMode.AUTO, RedirectTarget.NODE)


def test_the_reason_names_the_evidence_for_both() -> None:
    choice = choose(NodeFacts(iptables_nft=EMPTY, nft_tables=KUBE_PROXY), RedirectMode.AUTO, RedirectTarget.AUTO)
    assert choice.reason == "kube-proxy uses nftables (table ip kube-proxy); route_localnet is on"


CILIUM = TableFacts(3, frozenset({"CILIUM_PRE_nat", "KUBE-KUBELET-CANARY"}))
NETFILTER = (Backend.IPTABLES_LEGACY, Backend.IPTABLES_NFT, Backend.NFTABLES)


@pytest.mark.parametrize(
    "facts",
    [
        NodeFacts(iptables_nft=CILIUM),
        NodeFacts(iptables_legacy=CILIUM),
        NodeFacts(iptables_nft=KUBELET, cilium_interface=True),
    ],
)
def test_cilium_without_kube_proxy_is_not_effective_until_a_packet_matches(facts: NodeFacts) -> None:
    message = bypass(facts, Backend.IPTABLES_NFT, redirected=False)
    assert message is not None
    assert "Cilium runs here without kube-proxy" in message
    assert bypass(facts, Backend.IPTABLES_NFT, redirected=True) is None
    assert bypass(facts, Backend.CILIUM, redirected=False) is None


@pytest.mark.parametrize(
    "facts",
    [
        NodeFacts(iptables_nft=TableFacts(9, frozenset({"CILIUM_FORWARD", "KUBE-SERVICES"}))),
        NodeFacts(iptables_nft=CILIUM, nft_tables=KUBE_PROXY),
        NodeFacts(iptables_nft=TableFacts(9, frozenset({"KUBE-SERVICES"}))),
    ],
)
def test_cilium_next_to_kube_proxy_counts_as_effective(facts: NodeFacts) -> None:
    assert bypass(facts, Backend.IPTABLES_NFT, redirected=False) is None


POD = ("10.244.0.7", 40000)
OTHER = ("10.244.0.8", 40001)


class StubConnect(ConnectRedirect):
    """Connections to IMDS, whose destination the test replaces."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 80))
        self.replaced = False

    @override
    async def check(self) -> None:
        self._destination = "127.0.0.1:3080" if self.replaced else ""


class Node:
    """A node whose counter and connections the test sets."""

    def __init__(self) -> None:
        self.packets: int | None = 0
        self.connections: frozenset[tuple[str, int]] | None = frozenset()
        self.repairs = 0
        self.listings = 0
        self.connect = StubConnect()
        self.effect = RedirectEffect(
            NodeFacts(), Backend.NFTABLES, self._packets, self._bypassing, lambda: self.repairs, connect=self.connect
        )

    async def _packets(self) -> int | None:
        return self.packets

    async def _bypassing(self) -> frozenset[tuple[str, int]] | None:
        self.listings += 1
        return self.connections

    async def problem_after(self, checks: int = LIST_EVERY) -> str | None:
        for _ in range(checks):
            await self.effect.check()
        return self.effect.problem()


async def test_a_counter_of_zero_without_connections_is_no_problem() -> None:
    assert await Node().problem_after(20) is None


async def test_new_connections_past_a_rule_that_nothing_matches_are_a_problem_until_one_matches() -> None:
    node = Node()
    await node.problem_after(1)
    node.connections = frozenset({POD})
    message = await node.problem_after()
    assert message is not None
    assert "new connections of pods to the real IMDS: 1" in message
    assert "nft list ruleset" in message
    assert await node.problem_after(20) == message
    node.packets = 1
    assert await node.problem_after(1) is None
    assert node.effect.redirected


async def test_a_replaced_destination_is_a_problem_until_a_packet_of_a_pod_matches_the_rule() -> None:
    node = Node()
    assert await node.problem_after(1) is None
    node.connect.replaced = True
    message = await node.problem_after(1)
    assert message is not None
    assert "replaces 127.0.0.1:80 by 127.0.0.1:3080" in message
    node.connect.replaced = False
    assert await node.problem_after(1) is None
    node.connect.replaced, node.packets = True, 1
    assert await node.problem_after(1) is None


async def test_connections_from_before_the_rule_are_no_problem() -> None:
    node = Node()
    node.connections = frozenset({POD})
    assert await node.problem_after(20) is None


async def test_connections_made_while_the_rule_was_missing_are_no_problem() -> None:
    node = Node()
    await node.problem_after(1)
    node.connections = frozenset({POD})
    node.repairs = 1
    assert await node.problem_after(20) is None
    node.connections = frozenset({POD, OTHER})
    assert await node.problem_after(20) is not None


async def test_connections_past_the_rule_while_others_match_are_no_problem() -> None:
    node = Node()
    for number in range(1, 20):
        node.packets = number
        node.connections = frozenset({("10.244.0.7", number)})
        assert await node.problem_after(1) is None
    assert node.listings == 0, "conntrack costs the node the more, the more connections it has"


async def test_connections_are_listed_rarely() -> None:
    node = Node()
    await node.problem_after(10 * LIST_EVERY)
    assert node.listings <= 11


async def test_unreadable_counters_and_connections_prove_nothing() -> None:
    node = Node()
    node.connections = None
    assert await node.problem_after(20) is None
    node.connections = frozenset({POD})
    assert await node.problem_after(20) is None
    node.packets = None
    assert await node.problem_after(20) is None
