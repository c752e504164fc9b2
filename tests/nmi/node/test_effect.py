"""Evidence that the redirect has no effect: by counters and connections, injected and with real packets.

Excluded: labels and Cilium, which are facts (test_redirect_choice).
"""

from collections.abc import Iterator

import pytest

from nmi.node.conntrack import LISTED_MAX
from nmi.node.effect import LIST_EVERY, RedirectEffect
from nmi.node.redirect_choice import Backend, NodeFacts
from tests.nmi.node.machines import Worker
from tests.nmi.node.pod_node_imds import IMDS, Site, asked, open_connection, sites
from tests.nmi.node.redirect_process import RedirectProcess

POD = ("10.244.0.7", 40000)
OTHER = ("10.244.0.8", 40001)


class Node:
    """A node whose counter and connections the test sets."""

    def __init__(self) -> None:
        self.packets: int | None = 0
        self.connections: frozenset[tuple[str, int]] | None = frozenset()
        self.repairs = 0
        self.listings = 0
        self.effect = RedirectEffect(
            NodeFacts(), Backend.NFTABLES, self._packets, self._bypassing, lambda: self.repairs
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
    why = await node.problem_after()
    assert why is not None
    assert "new connections of pods to the real IMDS: 1" in why
    assert "nft list ruleset" in why
    assert await node.problem_after(20) == why
    node.packets = 1
    assert await node.problem_after(1) is None
    assert node.effect.redirected


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


@pytest.fixture
def site() -> Iterator[Site]:
    with sites("nft") as site:
        yield site


@pytest.mark.root
@pytest.mark.parametrize("backend", ["nft", "legacy", "nftables"])
def test_pods_reach_nmi_while_the_rule_is_installed_and_its_counter_counts_their_first_packets(
    site: Site, backend: str
) -> None:
    assert asked(site.pod) == "imds saw 10.244.0.7"
    with Worker(site.node, backend) as worker:
        assert worker.do("packets") is None
        worker.do("install")
        assert worker.do("packets") == 0
        for count in (1, 2):
            assert asked(site.pod) == "nmi saw 10.244.0.7"
            assert asked(site.node) == "imds saw 169.254.0.1"
            assert worker.do("packets") == count
        worker.do("install", "reject")
        assert worker.do("packets", "reject") == 0
        worker.do("remove", "reject")
        worker.do("remove")
        assert worker.do("packets") is None
        assert asked(site.pod) == "imds saw 10.244.0.7"


@pytest.mark.root
def test_connections_of_pods_to_imds_are_listed_and_those_of_the_node_and_to_nmi_are_not(site: Site) -> None:
    with Worker(site.node, "nftables") as worker:
        assert worker.do("bypassing") == []
        assert asked(site.node) == "imds saw 169.254.0.1"
        old, connect_and_talk = open_connection(site.pod)
        assert connect_and_talk() == "imds saw 10.244.0.7"
        worker.do("install")
        assert asked(site.pod) == "nmi saw 10.244.0.7"
        assert [address for address, _ in worker.do("bypassing")] == ["10.244.0.7"]
        old.communicate()


@pytest.mark.root
def test_more_connections_than_are_read_prove_nothing(site: Site) -> None:
    count = LISTED_MAX // 100
    script = "".join(
        f"-I -p tcp -s 10.244.0.7 -d {IMDS} --sport {10000 + number} --dport 80 --state ESTABLISHED -t 100\n"
        for number in range(count)
    )
    site.node.run("conntrack", "--load-file", "-", given=script)
    with Worker(site.node, "nftables") as worker:
        assert worker.do("bypassing") is None


@pytest.mark.root
@pytest.mark.parametrize("backend", ["iptables-nft", "nftables"])
def test_a_rule_of_another_program_that_is_effective_first_makes_nmi_not_ready(site: Site, backend: str) -> None:
    with RedirectProcess(site.node, f"--redirect={backend}", "--ipt-update-interval-sec=1") as node:
        assert node.installed()["problem"] is None
        site.node.run("nft", "add", "table", "ip", "first")
        site.node.run("nft", "add", "chain", "ip", "first", "c", "{ type nat hook prerouting priority -150; }")
        node.until(lambda state: state["problem"] is None)
        site.node.run("nft", "add", "rule", "ip", "first", "c", "ip", "daddr", IMDS, "dnat", "to", IMDS)

        def bypassed(state: dict[str, object]) -> bool:
            assert asked(site.pod) == "imds saw 10.244.0.7"
            return state["problem"] is not None

        assert "none matched the redirect" in str(node.until(bypassed)["problem"])
        site.node.run("nft", "delete", "table", "ip", "first")
        assert asked(site.pod) == "nmi saw 10.244.0.7"
        node.until(lambda state: state["problem"] is None)
