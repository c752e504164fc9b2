"""`TrafficRedirect` with Cilium, which checks the redirect once NMI listens; on kubenet; and the metrics of the node.

A listener on loopback is where the redirect leads.
"""

import asyncio
import socket
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from nmi.choices import RedirectMode, RedirectTarget
from nmi.node import cilium_redirect
from nmi.node.cilium_redirect import connects
from nmi.node.metrics import NodeMetrics
from nmi.node.network_monitor import NetworkMonitor
from nmi.node.traffic_redirect import TrafficRedirect
from nmi.settings import NmiSettings, parse
from podidentity.exits import StartError
from podidentity_sandbox.serving import restartable_listener
from tests.support.waiting import LIMIT_SECONDS, until


async def test_it_is_in_force_after_the_first_check_and_a_loss_is_the_reason_why_nmi_is_not_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cilium_redirect, "CHECK_SECONDS", 0.0)
    with restartable_listener("127.0.0.1") as listener:
        settings = NmiSettings(
            node_name="n",
            metadata_ip="127.0.0.1",
            listen_port=listener.getsockname()[1],
            redirect=RedirectMode.CILIUM,
            kubelet_config=tmp_path / "none",
        )
        redirect = TrafficRedirect(settings, "10.244.0.9")
        await redirect.prepare()
        maintaining = asyncio.create_task(redirect.maintain())
        await asyncio.sleep(0)
        assert (redirect.redirects, redirect.problem()) == (False, None), "NMI does not listen yet"
        await redirect.install()
        await until(lambda: redirect.redirects)
        assert redirect.state()["in_force"] is True
        assert redirect.choice is not None
        assert redirect.choice.target is RedirectTarget.NODE
        assert "the address of NMI's pod" in redirect.note()
        listener.close()
        await until(lambda: redirect.problem() is not None)
        assert "Cilium has lost the redirect" in str(redirect.problem())
        assert redirect.state()["cilium_repairs"] == 1
        maintaining.cancel()
        await asyncio.wait([maintaining])


async def test_the_check_is_one_connection_without_a_byte() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert await connects(server.getsockname()[:2])
        accepted, _ = server.accept()
        with accepted:
            accepted.settimeout(LIMIT_SECONDS)
            assert accepted.recv(1) == b""
    assert not await connects(("127.0.0.1", 1)), "nothing listens there"


async def test_without_a_redirect_nothing_is_checked(tmp_path: Path) -> None:
    redirect = TrafficRedirect(NmiSettings(node_name="n", redirect=RedirectMode.NONE, kubelet_config=tmp_path / "none"))
    await redirect.prepare()
    await redirect.install()
    async with asyncio.timeout(LIMIT_SECONDS):
        await redirect.maintain()
    assert (redirect.redirects, redirect.problem()) == (True, None)


@pytest.mark.parametrize(
    ("flags", "in_force"),
    [([], "0.0"), (["--fail-closed"], "0.0"), (["--redirect=none"], "1.0")],
    ids=["not prepared", "not closed yet", "not asked for"],
)
def test_the_metrics_exist_before_the_first_event(flags: list[str], in_force: str) -> None:
    registry = CollectorRegistry()
    NodeMetrics(registry, TrafficRedirect(parse(["--node=n1", *flags], {})), NetworkMonitor())
    lines = [line for line in generate_latest(registry).decode().splitlines() if not line.startswith("#")]
    assert lines == [
        "aadpodidentity_nmi_iptables_repairs_total 0.0",
        "aadpodidentity_nmi_iptables_failures_total 0.0",
        "aadpodidentity_nmi_conntrack_deleted_total 0.0",
        "aadpodidentity_nmi_network_listening 0.0",
        "aadpodidentity_nmi_network_lists_total 0.0",
        f"aadpodidentity_nmi_redirect_in_force {in_force}",
        "aadpodidentity_nmi_fail_closed 0.0",
    ]


@pytest.mark.parametrize("redirect", RedirectMode)
async def test_nmi_does_not_start_on_kubenet_whatever_redirects_to_it(redirect: RedirectMode, tmp_path: Path) -> None:
    (tmp_path / "kubelet").write_text("KUBELET_FLAGS=--network-plugin=kubenet\n")
    settings = NmiSettings(node_name="n", redirect=redirect, kubelet_config=tmp_path / "kubelet")
    with pytest.raises(StartError, match="--allow-network-plugin-kubenet"):
        await TrafficRedirect(settings, "10.244.0.9").prepare()
