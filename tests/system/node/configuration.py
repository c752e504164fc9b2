"""The configuration files of a node's programs, as text. This module reads and writes no files."""

import base64
import ipaddress
import json
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any, Final

import yaml

from tests.system.node.options import API_PORT, OUTSIDE_ADDRESS, POD_RANGE, Options

PAUSE_IMAGE: Final = "localhost/realnode/pause:1"
REPOSITORY: Final = "localhost/realnode"
"""The repository of the images on the nodes."""
CONTAINERD_SOCKET: Final = "/run/containerd/containerd.sock"
KUBERNETES: Final = PurePosixPath("/etc/kubernetes")
SHARED_SYSCTLS: Final[Mapping[str, str]] = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
    "kernel/unprivileged_bpf_disabled": "1",
    "kernel/timer_migration": "0",
}
"""The kernel settings that the kubelet and Cilium's agent write for the whole machine, with their values.

The node has files in their place, so that these programs find their values and the machine keeps its own.
"""


def containerd(cni_plugins: str) -> str:
    """Return containerd's configuration. *cni_plugins* is the folder of the CNI plugins."""
    # The limit of the OOM score needs CAP_SYS_RESOURCE, which a machine in a container may not have.
    return f"""\
version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
  address = "{CONTAINERD_SOCKET}"
[plugins."io.containerd.grpc.v1.cri"]
  restrict_oom_score_adj = true
  sandbox_image = "{PAUSE_IMAGE}"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{cni_plugins}"
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
"""


def cni(options: Options, pods: str) -> str:
    """Return the CNI configuration of a node whose pods have addresses in *pods*."""
    if options.cilium:
        return json.dumps({"cniVersion": "0.3.1", "name": "realnode", "plugins": [{"type": "cilium-cni"}]}, indent=2)
    network = ipaddress.ip_network(pods)
    # The first address is the bridge's.
    addresses = {"subnet": pods, "rangeStart": str(network[2]), "rangeEnd": str(network[1 + options.pod_addresses])}
    ipam = {"type": "host-local", "ranges": [[addresses]], "routes": [{"dst": "0.0.0.0/0"}]}
    plugin: dict[str, Any] = {"type": options.cni, "ipMasq": False, "ipam": ipam}
    if options.cni == "bridge":
        plugin |= {"bridge": "cni0", "isGateway": True, "hairpinMode": True, "promiscMode": False}
    ports = {"type": "portmap", "capabilities": {"portMappings": True}}
    return json.dumps({"cniVersion": "1.0.0", "name": "realnode", "plugins": [plugin, ports]}, indent=2)


def kubelet(pods: str, provider_id: str) -> str:
    """Return the kubelet's configuration. *provider_id* is the resource id of the node's VM."""
    return yaml.safe_dump(
        {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "failCgroupV1": False,
            "cgroupDriver": "cgroupfs",
            "failSwapOn": False,
            "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(KUBERNETES / "ca.crt")},
            },
            "authorization": {"mode": "Webhook"},
            "clusterDNS": ["10.96.0.10"],
            "clusterDomain": "cluster.local",
            "resolvConf": str(KUBERNETES / "resolv.conf"),
            # The machine's disk is not the node's: its fill level must not evict pods.
            "imageGCHighThresholdPercent": 100,
            "imageGCLowThresholdPercent": 99,
            "evictionHard": {
                "memory.available": "1Mi",
                "nodefs.available": "0%",
                "nodefs.inodesFree": "0%",
                "imagefs.available": "0%",
            },
            "nodeStatusUpdateFrequency": "5s",
            "syncFrequency": "10s",
            "podCIDR": pods,
            "providerID": f"azure://{provider_id}",
        }
    )


def kube_proxy(options: Options, node: str) -> str:
    """Return kube-proxy's configuration on the node of this name."""
    return yaml.safe_dump(
        {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": options.proxy,
            "clusterCIDR": POD_RANGE,
            "hostnameOverride": node,
            "clientConnection": {"kubeconfig": str(KUBERNETES / "kube-proxy.kubeconfig")},
            # These settings are the machine's, so kube-proxy does not change them.
            "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        }
    )


def kubeconfig(authority: bytes, certificate: bytes, key: bytes) -> str:
    """Return a kubeconfig for the API server with a client certificate. All arguments are PEM."""

    def encoded(data: bytes) -> str:
        return base64.b64encode(data).decode()

    cluster = {"server": f"https://{OUTSIDE_ADDRESS}:{API_PORT}", "certificate-authority-data": encoded(authority)}
    user = {"client-certificate-data": encoded(certificate), "client-key-data": encoded(key)}
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "realnode",
            "clusters": [{"name": "realnode", "cluster": cluster}],
            "users": [{"name": "user", "user": user}],
            "contexts": [{"name": "realnode", "context": {"cluster": "realnode", "user": "user"}}],
        }
    )


def chart_values(authority: str, cloud: Mapping[str, str]) -> dict[str, Any]:
    """Return the chart's values for a test bed, all others at their defaults.

    *authority* is the PEM certificate of the emulated Azure, *cloud* its description.
    """
    return {
        "image": {"repository": REPOSITORY},
        "caBundle": {"pem": authority},
        "customCloud": {"environment": dict(cloud)},
    }
