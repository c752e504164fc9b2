"""The configuration of a node's programs, where a wrong one would hide a leak."""

import json

import pytest
import yaml

from tests.realnode import cilium_programs, configuration
from tests.realnode.options import POD_RANGE, NodeAddresses, Options, is_pod


@pytest.mark.parametrize(("kind", "bridge"), [("bridge", "cni0"), ("ptp", None)])
def test_the_cni_configuration_has_the_plugin_of_the_options(kind: str, bridge: str | None) -> None:
    options = Options(cni="bridge" if kind == "bridge" else "ptp")
    plugin, portmap = json.loads(configuration.cni(options, "10.244.1.0/24"))["plugins"]
    assert (plugin["type"], plugin.get("bridge")) == (kind, bridge)
    assert plugin["ipMasq"] is False, "IMDS must see the pod's address, or leaks cannot be counted"
    addresses = {"subnet": "10.244.1.0/24", "rangeStart": "10.244.1.2", "rangeEnd": "10.244.1.251"}
    assert plugin["ipam"]["ranges"] == [[addresses]]
    assert portmap["type"] == "portmap"


def test_kube_proxy_changes_no_setting_of_the_machine() -> None:
    document = yaml.safe_load(configuration.kube_proxy(Options(proxy="nftables"), "node-0"))
    assert document["mode"] == "nftables"
    assert (document["conntrack"]["maxPerCore"], document["conntrack"]["min"]) == (0, 0)


def test_addresses_of_nodes_do_not_overlap() -> None:
    networks = [network for number in range(9) for network in NodeAddresses(number).networks]
    assert not [(a, b) for a in networks for b in networks if a is not b and a.overlaps(b)]
    assert is_pod("10.244.8.3")
    assert not is_pod(NodeAddresses(8).node)


@pytest.mark.parametrize(("routing", "legacy"), [("ebpf", "false"), ("legacy", "true")])
def test_the_agent_of_cilium_translates_no_source_address(routing: cilium_programs.Routing, legacy: str) -> None:
    flags = cilium_programs.flags(routing)
    assert f"--enable-host-legacy-routing={legacy}" in flags
    assert {"--enable-ipv4-masquerade=false", f"--ipv4-native-routing-cidr={POD_RANGE}"} <= set(flags)
