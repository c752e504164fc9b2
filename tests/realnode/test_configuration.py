"""The configuration files of a node's programs."""

import json

import pytest
import yaml

from tests.realnode import configuration
from tests.realnode.options import NodeAddresses, Options, is_pod


@pytest.mark.parametrize(("kind", "bridge"), [("bridge", "cni0"), ("ptp", None)])
def test_the_cni_configuration_has_the_plugin_of_the_options(kind: str, bridge: str | None) -> None:
    options = Options(cni="bridge" if kind == "bridge" else "ptp")
    plugin, portmap = json.loads(configuration.cni(options, "10.244.1.0/24"))["plugins"]
    assert (plugin["type"], plugin.get("bridge")) == (kind, bridge)
    assert plugin["ipMasq"] is False, "IMDS must see the pod's address, or leaks cannot be counted"
    addresses = {"subnet": "10.244.1.0/24", "rangeStart": "10.244.1.2", "rangeEnd": "10.244.1.251"}
    assert plugin["ipam"]["ranges"] == [[addresses]]
    assert portmap["type"] == "portmap"


def test_the_number_of_addresses_is_limited() -> None:
    plugin, _ = json.loads(configuration.cni(Options(pod_addresses=4), "10.244.0.0/24"))["plugins"]
    assert plugin["ipam"]["ranges"][0][0]["rangeEnd"] == "10.244.0.5"
    with pytest.raises(ValueError, match="1 to 250 addresses"):
        Options(pod_addresses=251)


def test_the_kubelet_keeps_pods_whatever_the_state_of_the_disk() -> None:
    document = yaml.safe_load(configuration.kubelet("10.244.0.0/24", "/subscriptions/s"))
    assert document["providerID"] == "azure:///subscriptions/s"
    assert document["evictionHard"]["nodefs.available"] == "0%"
    assert document["failCgroupV1"] is False


def test_kube_proxy_changes_no_setting_of_the_machine() -> None:
    document = yaml.safe_load(configuration.kube_proxy(Options(proxy="nftables"), "node-0"))
    assert document["mode"] == "nftables"
    assert (document["conntrack"]["maxPerCore"], document["conntrack"]["min"]) == (0, 0)


def test_a_kubeconfig_names_the_api_server_outside_of_the_node() -> None:
    document = yaml.safe_load(configuration.kubeconfig(b"ca", b"certificate", b"key"))
    assert document["clusters"][0]["cluster"]["server"] == "https://10.98.0.1:6443"
    assert set(document["users"][0]["user"]) == {"client-certificate-data", "client-key-data"}


def test_containerd_runs_without_the_right_to_lower_oom_scores() -> None:
    text = configuration.containerd("/plugins")
    assert "restrict_oom_score_adj = true" in text
    assert 'bin_dir = "/plugins"' in text


def test_addresses_of_nodes_do_not_overlap() -> None:
    networks = [network for number in range(9) for network in NodeAddresses(number).networks]
    assert not [(a, b) for a in networks for b in networks if a is not b and a.overlaps(b)]
    assert is_pod("10.244.8.3")
    assert not is_pod(NodeAddresses(8).node)


@pytest.mark.parametrize("wrong", [{"nodes": 0}, {"nodes": 10}, {"legacy_iptables": True, "proxy": "nftables"}])
def test_options_that_cannot_be_combined_are_rejected(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"nodes|iptables"):
        Options(**wrong)  # type: ignore[arg-type]


def test_with_cilium_its_plugin_gives_pods_their_addresses() -> None:
    (plugin,) = json.loads(configuration.cni(Options(cilium="ebpf"), "10.244.0.0/24"))["plugins"]
    assert plugin == {"type": "cilium-cni"}
