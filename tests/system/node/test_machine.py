"""The probe of a machine, which decides whether nodes run, and settings of a node that a leak depends on."""

import json
from pathlib import Path

import pytest

from tests.system.node import cgroups, cilium_programs, configuration
from tests.system.node.cgroups import Cgroup
from tests.system.node.machine import PROBES, REQUIRED_V1, missing
from tests.system.node.options import POD_RANGE, Cni, NodeAddresses, Options, is_pod

DENIED = "Operation not permitted"


@pytest.fixture
def v1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cgroup:
    monkeypatch.setattr(cgroups, "REMOVAL_SECONDS", 0.0)  # rmdir removes a cgroup with its files, a directory not
    for name in REQUIRED_V1:
        (tmp_path / name).mkdir()
    for setting in ("cpuset.cpus", "cpuset.mems"):
        (tmp_path / "cpuset" / setting).write_text("0\n")
    return Cgroup("podid-probe", tmp_path)


def test_a_machine_that_permits_everything_has_no_reason(v1: Cgroup) -> None:
    assert missing(lambda _: "", v1, root=True) == []


@pytest.mark.parametrize("name", sorted(set(PROBES) - {"namespaces"}))
def test_each_refused_probe_is_a_reason(v1: Cgroup, name: str) -> None:
    found = missing(lambda script: DENIED if script == PROBES[name] else "", v1, root=True)
    assert found == [f"The machine does not permit {name}: {DENIED}."]


def test_without_namespaces_nothing_else_is_tried(v1: Cgroup) -> None:
    (reason,) = missing(lambda _: DENIED, v1, root=True)
    assert "does not permit namespaces (Operation not permitted)" in reason


@pytest.mark.parametrize(("kind", "bridge"), [("bridge", "cni0"), ("ptp", None)])
def test_imds_sees_the_addresses_of_pods_so_that_leaks_are_counted(kind: Cni, bridge: str | None) -> None:
    plugin, _ = json.loads(configuration.cni(Options(cni=kind), "10.244.1.0/24"))["plugins"]
    assert (plugin["type"], plugin.get("bridge"), plugin["ipMasq"]) == (kind, bridge, False)
    addresses = {"subnet": "10.244.1.0/24", "rangeStart": "10.244.1.2", "rangeEnd": "10.244.1.251"}
    assert plugin["ipam"]["ranges"] == [[addresses]]
    networks = [network for number in range(9) for network in NodeAddresses(number).networks]
    assert not [(a, b) for a in networks for b in networks if a is not b and a.overlaps(b)]
    assert is_pod("10.244.8.3")
    assert not is_pod(NodeAddresses(8).node)


@pytest.mark.parametrize(("routing", "legacy"), [("ebpf", "false"), ("legacy", "true")])
def test_the_agent_of_cilium_translates_no_source_address(routing: cilium_programs.Routing, legacy: str) -> None:
    flags = cilium_programs.flags(routing)
    assert f"--enable-host-legacy-routing={legacy}" in flags
    assert {"--enable-ipv4-masquerade=false", f"--ipv4-native-routing-cidr={POD_RANGE}"} <= set(flags)
