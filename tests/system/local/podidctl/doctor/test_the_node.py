"""This machine as a node: the rule, its counter, IMDS, and what blocks pods from IMDS while NMI is not running."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from nmi.choices import RedirectMode
from nmi.node import boot_guard
from nmi.node.traffic_redirect import redirect_spec
from nmi.settings import NmiSettings
from podidctl.checks.machine import check_fail_closed
from podidctl.checks.rules import report
from podidctl.facts.model import FailClosedState, NodeState, ReadFailure
from podidctl.reading.machine import _imds, has_restriction
from podidctl.report.documents import CheckResult
from podidctl.report.finding import Level
from podidctl.verify.canary import NMI_RESPONSE
from tests.support.nmi.node import aks
from tests.support.nmi.node.machines import Machine, Worker
from tests.support.podidctl.doctor_inputs import seen


def lines_of(node: NodeState) -> list[CheckResult]:
    findings = report(seen(), node).findings
    return [finding for finding in findings if finding.check in {"nat rule", "redirects", "kubenet", "IMDS"}]


def bad_of(node: NodeState) -> list[CheckResult]:
    return [finding for finding in lines_of(node) if finding.level is not Level.OK]


def test_a_counter_of_zero_while_pods_run_is_reported_with_its_usual_cause() -> None:
    (line,) = bad_of(NodeState(name="node-1", fault=None, packets=0, pods=3))
    assert (line.check, line.level) == ("redirects", Level.WARNING)
    assert "eBPF" in line.next
    assert bad_of(NodeState(name="node-1", fault=None, packets=0, pods=0)) == []


@pytest.mark.parametrize(
    ("node", "check", "level"),
    [
        (NodeState(name="n", fault="the chain is missing"), "nat rule", Level.PROBLEM),
        (NodeState(name="n", fault=ReadFailure("needs root")), "nat rule", Level.UNKNOWN),
        (NodeState(name="n", fault=None, packets=None), "redirects", Level.UNKNOWN),
        (NodeState(name="n", fault=None, packets=1, kubenet=True), "kubenet", Level.WARNING),
        (NodeState(name="n", fault=None, packets=1, imds=ReadFailure("no answer")), "IMDS", Level.PROBLEM),
    ],
)
def test_a_fault_is_reported(node: NodeState, check: str, level: Level) -> None:
    (line,) = bad_of(node)
    assert (line.check, line.level) == (check, level)
    assert line.next or level is Level.UNKNOWN


def test_bypass_backend_and_target_are_reported_with_their_reason() -> None:
    (line,) = bad_of(NodeState(name="n", fault=None, packets=0, pods=3, bypass="Cilium runs here; use another"))
    assert (line.check, line.level, line.next) == ("redirects", Level.PROBLEM, "use another")
    assert line.says == "node n: Cilium runs here"
    assert bad_of(NodeState(name="n", fault=None, wanted=False)) == []
    findings = report(seen(), NodeState(name="n", fault=None, packets=1, choice="nftables to node: why")).findings
    assert ("backend", Level.OK, "node n: nftables to node: why") in {(f.check, f.level, f.says) for f in findings}
    assert "IMDS" not in {finding.check for finding in lines_of(NodeState(name="n", fault=None, packets=1))}
    findings = lines_of(NodeState(name="n", fault=None, packets=1, imds="it answers"))
    assert ("IMDS", Level.OK) in {(finding.check, finding.level) for finding in findings}


TO = redirect_spec(NmiSettings(node_name="n"))
RULE = "! -s 10.224.0.4/32 -d 169.254.169.254/32 -p tcp -m tcp --dport 80"
COMMENT = f'-m comment --comment "{aks.COMMENT}"'


@pytest.mark.parametrize(
    ("rules", "there"),
    [
        ([f"{RULE} {COMMENT} -j DROP"], True),
        ([f"{RULE} -j DROP"], True),
        (["-j KUBE-FORWARD", f"{RULE} {COMMENT} -j DROP"], True),
        (["-j ACCEPT", f"{RULE} {COMMENT} -j DROP"], False),
        ([f"{RULE} {COMMENT} -j ACCEPT"], False),
        ([f"-s 10.224.0.4/32 {RULE.partition(' ! ')[2]} -j DROP"], False),
        ([RULE.replace("80", "8080") + " -j DROP"], False),
        ([RULE.replace("169.254.169.254", "168.63.129.16") + " -j DROP"], False),
        (['-m comment --comment "-d 169.254.169.254/32 -p tcp -m tcp --dport 80 -j DROP" -j RETURN'], False),
        ([], False),
    ],
)  # fmt: skip
def test_akss_rule_is_recognised_by_its_effect(rules: list[str], there: bool) -> None:
    saved = "".join(f"-A FORWARD {rule}\n" for rule in rules)
    assert has_restriction(f"*filter\n:FORWARD ACCEPT [0:0]\n{saved}COMMIT\n", TO) is there
    assert not has_restriction(saved.replace("FORWARD", "KUBE-FORWARD"), TO)


def check_node(**seen: object) -> dict[str, tuple[Level, str]]:
    defaults = {"wanted": True, "fault": None, "restricted": (), "guard": False, "localnet": None}
    state = FailClosedState(**{**defaults, **seen})  # type: ignore[arg-type]
    return {
        finding.check: (finding.level, finding.message)
        for finding in check_fail_closed(NodeState(name="n", fault=None, closing=state))
    }


@pytest.mark.parametrize(
    ("seen", "level"),
    [
        ({}, Level.OK),
        ({"fault": "the rule is missing"}, Level.PROBLEM),
        ({"fault": "the rule is missing", "wanted": False}, Level.WARNING),
        ({"fault": "the rule is missing", "wanted": False, "restricted": ("mangle",)}, Level.OK),
        ({"fault": ReadFailure("not root")}, Level.UNKNOWN),
    ],
)
def test_a_node_that_is_open_while_nmi_is_not_running_is_reported(seen: dict[str, object], level: Level) -> None:
    assert check_node(**seen)["fail closed"][0] is level


def test_each_mechanism_is_named() -> None:
    everything = check_node(restricted=("filter",), guard=True)
    assert everything["AKS IMDS restriction"] == (Level.OK, "node n: present in filter/FORWARD")
    assert everything["boot guard"] == (Level.OK, "node n: enabled for the next boot")
    assert check_node()["AKS IMDS restriction"] == (Level.OK, "node n: not present")
    assert check_node()["boot guard"] == (Level.OK, "node n: not installed")
    assert check_node(localnet="route_localnet is 0")["route_localnet"] == (
        Level.PROBLEM,
        "node n: route_localnet is 0",
    )
    unread = check_node(restricted=ReadFailure("no"), guard=ReadFailure("no"))
    assert {unread["AKS IMDS restriction"][0], unread["boot guard"][0]} == {Level.UNKNOWN}


LOOK = """
import asyncio, json, sys
from nmi.settings import parse
from podidctl.reading.machine import read_node
seen = asyncio.run(read_node(parse(sys.argv[1:], {"NODE_IP": "10.0.0.4"}), pods=0, ask_imds=False))
closing = [seen.closing.fault, seen.closing.restricted, seen.closing.guard, seen.closing.localnet is None]
print(json.dumps([closing, [seen.fault, seen.packets, seen.choice.split(":")[0]]]))
"""


def look(machine: Machine, *flags: str) -> Any:
    """What blocks pods from IMDS while NMI is not running, and the redirect."""
    return json.loads(machine.run(sys.executable, "-c", LOOK, "--node=n", *flags))


@pytest.mark.root
@pytest.mark.parametrize("backend", ["nft", "legacy"])
def test_the_tables_of_a_node_are_read(backend: str, tmp_path: Path) -> None:
    machine, flag = Machine(), f"--systemd-directory={tmp_path}"
    try:
        machine.run(f"iptables-{backend}", "-t", "mangle", "-N", "KUBE-IPTABLES-HINT")
        assert look(machine, flag)[0] == ["the rule is missing", [], False, False]
        aks.restrict(machine, backend, "mangle")
        assert look(machine, flag)[0] == ["the rule is missing", ["mangle"], False, False]
        aks.restrict(machine, backend, "filter")
        machine.set_sysctl({"net/ipv4/conf/all/route_localnet": "1"})
        boot_guard.install(tmp_path, TO, Path("/etc/default/kubelet"))
        assert look(machine, flag)[0] == ["the rule is missing", ["filter", "mangle"], True, True]
        with Worker(machine, backend) as worker:
            worker.do("install", "reject")
        assert look(machine, flag)[0] == [None, ["filter", "mangle"], True, True]
    finally:
        machine.close()


@pytest.mark.root
def test_a_redirect_by_nftables_to_the_nodes_address_is_read() -> None:
    machine = Machine()
    try:
        machine.run("ip", "addr", "add", "10.0.0.4/32", "dev", "lo")
        flag = "--redirect-target=node"
        assert look(machine, flag)[1] == ["the chain is missing", None, "nftables to node"]
        put = (
            "import asyncio; from nmi.node.nftables_driver import NftablesDriver; "
            "from nmi.node.rules import RedirectSpec; to = RedirectSpec('169.254.169.254', 80, '10.0.0.4', 2579); "
            "asyncio.run(NftablesDriver('/usr/sbin/nft').put(to.redirect))"
        )
        machine.run(sys.executable, "-c", put)
        assert look(machine, flag)[1] == [None, 0, "nftables to node"]
    finally:
        machine.close()


@pytest.mark.parametrize(
    ("status", "body", "redirect", "text"),
    [
        (404, NMI_RESPONSE, RedirectMode.CILIUM, "leads to NMI"),
        (404, NMI_RESPONSE, RedirectMode.NONE, ""),
        (404, {"error": "not_found", "error_description": "No such path."}, RedirectMode.CILIUM, ""),
        (500, NMI_RESPONSE, RedirectMode.CILIUM, ""),
    ],
)
async def test_nmis_own_answer_is_no_fault_with_cilium_and_another_is(
    status: int, body: dict[str, Any], redirect: RedirectMode, text: str
) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.json_response(body, status=status)

    application = web.Application()
    application.router.add_get("/metadata/versions", answer)
    async with TestServer(application) as server:
        settings = NmiSettings(
            node_name="n", metadata_ip="127.0.0.1", metadata_port=server.port or 0, redirect=redirect
        )
        result = await _imds(settings)
    assert isinstance(result, str if text else ReadFailure)
    assert text in str(result)
