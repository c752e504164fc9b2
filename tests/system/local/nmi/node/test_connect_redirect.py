"""A program that replaces the destination of connections, as of the metadata security protocol: its effects, and NMI's
report. Excluded: the errors of the Guest Proxy Agent itself.
"""

import sys
from collections.abc import Iterator
from contextlib import nullcontext

import pytest

from tests.support.nmi.node.connect_hook import AGENT_PORT, connect_hook
from tests.support.nmi.node.pod_node_imds import ASK, IMDS, Site, response_to, serving, sites
from tests.support.nmi.node.redirect_process import RedirectProcess

pytestmark = pytest.mark.root

FLAGS = ("--ipt-update-interval-sec=1",)


@pytest.fixture(scope="module")
def hook() -> Iterator[tuple[str, ...]]:
    with connect_hook() as words:
        yield words


@pytest.fixture
def site() -> Iterator[Site]:
    with sites("nft") as site:
        yield site


def test_it_is_in_effect_in_the_network_namespace_of_a_pod_which_then_reaches_nothing(
    site: Site, hook: tuple[str, ...]
) -> None:
    assert response_to(site.pod) == "imds saw 10.244.0.7"
    done = site.pod.finish(*hook, sys.executable, "-c", ASK, IMDS, "80", "5", given="x\n")
    assert "ConnectionRefusedError" in done.stderr
    with serving(site.pod, "127.0.0.1", AGENT_PORT, "agent"):
        assert site.pod.run(*hook, sys.executable, "-c", ASK, IMDS, "80", "5", given="x\n") == "agent saw 127.0.0.1\n"


@pytest.mark.parametrize("runs", [False, True], ids=["without the agent", "with the agent"])
def test_nmi_is_not_ready_until_a_packet_of_a_pod_matches_its_rule(
    site: Site, hook: tuple[str, ...], *, runs: bool
) -> None:
    agent = serving(site.node, "127.0.0.1", AGENT_PORT, "agent") if runs else nullcontext()
    with agent, RedirectProcess(site.node, *FLAGS, within=hook) as node:
        node.installed()
        problem = str(node.until(lambda state: state["problem"] is not None)["problem"])
        assert f"replaces {IMDS}:80 by 127.0.0.1{f':{AGENT_PORT}' if runs else ''} when a process connects" in problem
        assert response_to(site.pod) == "nmi saw 10.244.0.7", "a pod in which the program has no effect"
        node.until(lambda state: state["problem"] is None)
