"""`nmi` started while the API server is unavailable: it waits, reports why, and is active after the return.

Also the labels of a node object that arrive late, and errors that end the start with one line. Excluded: the redirect's
decisions (test_rules_follow_the_labels), and the reads (tests/unit/nmi/test_node_labels.py).
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from nmi.node.host_routing import LABEL
from podidentity_sandbox.kubeapi.server import Recorded
from podidentity_sandbox.kubeapi.statuses import StatusError
from tests.support.fault_proxy import Mode
from tests.support.nmi.node.machines import Machine
from tests.support.waiting import until
from tests.system.local.nmi.node.unavailable_api_server import Away, Nmi, start_without_api_server

pytestmark = pytest.mark.programs

NODE = "/api/v1/nodes/n0"
KUBELET = "KUBELET_NODE_LABELS=agentpool=a\n"
KUBECONFIG = """apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "http://127.0.0.1:1"}}]
contexts: [{name: c, context: {cluster: c, user: u}}]
users: [{name: u, user: {}}]
current-context: c
"""
WITHOUT_NET_ADMIN = ("setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin")


@pytest.fixture
async def away(tmp_path: Path) -> AsyncIterator[Away]:
    async with start_without_api_server(tmp_path) as made:
        yield made


@pytest.mark.parametrize("mode", [Mode.REFUSE, Mode.HANG, Mode.SILENT, Mode.RESET])
async def test_nmi_waits_logs_the_cause_and_becomes_active(away: Away, mode: Mode) -> None:
    await away.proxy.set_mode(mode)
    nmi = await away.nmi()
    ready = await nmi.until("/readyz", lambda status, text: status >= 500 and "no contact with the API server" in text)
    assert f"127.0.0.1:{away.proxy.port}" in ready
    assert "check that the API server runs" in ready
    assert nmi.page("/healthz") == (200, "Not Active"), "the kubelet's liveness probe must not end it"
    await away.proxy.set_mode(Mode.PASS)
    await nmi.active()
    warnings = [line["message"] for line in nmi.lines() if line["level"] != "info"]
    assert warnings == ["no contact with the API server yet; correct the cause in the reason, a restart is not needed"]
    assert nmi.page("/readyz")[0] == 200
    await nmi.stop()


@pytest.mark.parametrize(
    ("status", "reason", "check", "expected"),
    [
        (401, "Unauthorized", "api server", "check the service account's token"),
        (403, "Forbidden", "watches", "not allowed to list or watch; grant this permission in the ClusterRole"),
    ],
)
async def test_an_api_server_that_rejects_requests_is_named_and_waited_for(
    away: Away, status: int, reason: str, check: str, expected: str
) -> None:
    away.api.intercept = lambda _request: StatusError(status, reason, "made up")
    nmi = await away.nmi()
    ready = await nmi.until("/readyz", lambda _status, text: expected in text)
    assert f"[-]{check}: " in ready
    assert "made up" in ready
    assert nmi.page("/healthz") == (200, "Not Active")
    away.api.intercept = None
    await nmi.active()
    assert sum(line["level"] != "info" for line in nmi.lines()) == 1, "one line a minute"


async def test_sigterm_during_the_wait_ends_nmi_cleanly(away: Away) -> None:
    await away.proxy.set_mode(Mode.HANG)
    nmi = await away.nmi()
    await nmi.until("/readyz", lambda _status, text: "no contact" in text)
    await nmi.stop()
    assert nmi.lines()[-1]["message"] == "nmi stopped"


# On a machine with rules.


@pytest.fixture
async def on_machine(away: Away, machine: Machine) -> Away:
    """The API server, which only processes on *machine* use."""
    await away.proxy.stop()
    listener = await asyncio.to_thread(machine.listening, away.proxy.port)
    await away.proxy.start(extra_sockets=[listener])
    return away


async def start(away: Away, machine: Machine, kubelet: str) -> Nmi:
    """Start NMI with these labels in the kubelet's flags."""
    file = away.folder / "kubelet"
    file.write_text(kubelet)
    flags = ("--redirect=iptables-nft", "--fail-closed", f"--kubelet-config={file}")
    return await away.nmi(*flags, inside=machine.inside())


async def rules_exist(machine: Machine, chain: str, count: int, nmi: Nmi) -> None:
    await until(
        lambda: asyncio.to_thread(machine.rules, "nft", chain), nmi.log, holds=lambda rules: len(rules) == count
    )


@pytest.mark.root
@pytest.mark.parametrize("kubelet", [KUBELET, ""], ids=["labels in the kubelet's flags", "no labels there"])
@pytest.mark.parametrize("value", ["true", "false"])
async def test_the_label_of_an_api_server_that_responds_late_decides(
    on_machine: Away, machine: Machine, kubelet: str, value: str
) -> None:
    on_machine.api.store.create("nodes", {"metadata": {"name": "n0", "labels": {LABEL: value}}})
    await on_machine.proxy.set_mode(Mode.RESET)
    nmi = await start(on_machine, machine, kubelet)
    await nmi.logged("no contact with the API server")
    if kubelet:
        await rules_exist(machine, "FORWARD", 1, nmi)
    else:
        await nmi.logged("no rule is written until the API server responds")
        assert machine.rules("nft", "FORWARD") == []
    reads = 0

    def reject_node(request: Recorded) -> StatusError | None:
        nonlocal reads
        reads += request.path == NODE
        return StatusError(500, "InternalError", "nodes cannot be read") if request.path == NODE else None

    on_machine.api.intercept = reject_node
    await on_machine.proxy.set_mode(Mode.PASS)
    if kubelet:
        await nmi.logged("nmi active")
    await until(lambda: reads >= 3, nmi.log)
    assert ("nmi active" in nmi.log()) is bool(kubelet), "an unreadable node object delays only a start without labels"
    assert len(machine.rules("nft", "FORWARD")) == bool(kubelet)
    on_machine.api.intercept = None
    await nmi.logged("nmi active")
    for chain in ("FORWARD", "PREROUTING"):
        await rules_exist(machine, chain, 0 if value == "true" else 1, nmi)
    assert ("so NMI writes no rule" in nmi.log()) is (value == "true")
    await nmi.stop()


# Starts that end.


def refusal(machine: Machine, *flags: str, given: str = "", before: tuple[str, ...] = ()) -> str:
    """Return the one line with which NMI does not start, after the log lines before it. *given*: the kubelet's flags"""
    machine.run("tee", "/run/kubelet", given=given)
    machine.run("tee", "/run/kubeconfig", given=KUBECONFIG)
    usual = ("--node=n1", "--kubeconfig=/run/kubeconfig", "--kubelet-config=/run/kubelet")
    done = machine.finish(*before, sys.executable, "-m", "nmi", *usual, *flags)
    assert done.returncode == 1, done
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("nmi: ")
    return last


@pytest.mark.root
def test_a_port_in_use_ends_the_start(machine: Machine) -> None:
    with machine.listening(2579):
        assert "--nmi-port" in refusal(machine)


@pytest.mark.root
@pytest.mark.parametrize("backend", ["nft", "legacy"])
def test_missing_net_admin_ends_the_start(machine: Machine, backend: str) -> None:
    machine.run(f"iptables-{backend}", "-t", "mangle", "-N", "KUBE-IPTABLES-HINT")
    line = refusal(machine, before=WITHOUT_NET_ADMIN)
    assert "give NMI the capability NET_ADMIN" in line
    assert "--redirect=none" in line


@pytest.mark.root
def test_the_reject_exists_after_a_start_without_access_to_the_cluster(machine: Machine) -> None:
    flags = ("--redirect=iptables-nft", "--fail-closed", "--kubeconfig=/missing")
    assert "kubeconfig" in refusal(machine, *flags)
    assert machine.rules("nft", "FORWARD") == []
    assert "kubeconfig" in refusal(machine, *flags, given=KUBELET)
    (rule,) = machine.rules("nft", "FORWARD")
    assert "REJECT" in rule
