"""The labels in the kubelet's flags, as NMI and as the boot guard's grep read them."""

import subprocess
from pathlib import Path

import pytest

from nmi.node.host_routing import LABEL, LABELLED, HostRouting, by_kubelet, by_kubelet_flags, by_labels

AKS = (
    "KUBELET_FLAGS=--cgroup-driver=systemd --kubeconfig=/var/lib/kubelet/kubeconfig\n"
    "KUBELET_REGISTER_SCHEDULABLE=true\n\n"
    "KUBELET_NODE_LABELS=agentpool=pool1,kubernetes.azure.com/role=agent,{}kubernetes.azure.com/mode=system\n"
)
CASES = [
    (AKS.format(f"{LABEL}=true,"), HostRouting.EBPF),
    (f'KUBELET_NODE_LABELS="a=b,{LABEL}=true"\n', HostRouting.EBPF),
    (f"KUBELET_EXTRA_ARGS=--v=2 --node-labels={LABEL}=true --v=3", HostRouting.EBPF),
    (f"  KUBELET_EXTRA_ARGS=--node-labels a=b,{LABEL}=true", HostRouting.EBPF),
    (AKS.format(""), HostRouting.NETFILTER),
    (AKS.format(f"{LABEL}=false,"), HostRouting.NETFILTER),
    (AKS.format(f"{LABEL}=trues,"), HostRouting.NETFILTER),
    (f"KUBELET_NODE_LABELS=a=b\n\n# KUBELET_NODE_LABELS={LABEL}=true\n", HostRouting.NETFILTER),
    ("KUBELET_EXTRA_ARGS='--node-labels=a=b'", HostRouting.NETFILTER),
    ("", HostRouting.UNKNOWN),
    ("KUBELET_NODE_LABELS=\n", HostRouting.UNKNOWN),
    ("KUBELET_NODE_LABELS=\nKUBELET_FLAGS=--v=2\n", HostRouting.UNKNOWN),
    ("KUBELET_EXTRA_ARGS=--node-labels=${KUBELET_NODE_LABELS}\n", HostRouting.UNKNOWN),
    ("KUBELET_EXTRA_ARGS=\n# KUBELET_NODE_LABELS=a=b\n", HostRouting.UNKNOWN),
]


@pytest.mark.parametrize(("text", "expected"), CASES)
def test_the_labels_in_the_flags_decide(text: str, expected: HostRouting) -> None:
    assert by_kubelet_flags(text) is expected


@pytest.mark.programs
@pytest.mark.parametrize(("text", "expected"), CASES)
def test_the_boot_guards_grep_finds_the_same_label(text: str, expected: HostRouting, tmp_path: Path) -> None:
    (tmp_path / "kubelet").write_text(text)
    done = subprocess.run(["grep", "-Eqsw", LABELLED, str(tmp_path / "kubelet")], check=False)
    assert (done.returncode == 0) is (expected is HostRouting.EBPF)


@pytest.mark.parametrize("labels", [{}, {LABEL: "false"}, {"kubernetes.io/os": "linux"}])
def test_a_node_object_without_the_label_may_have_rules(labels: dict[str, str]) -> None:
    assert by_labels(labels) is HostRouting.NETFILTER
    assert by_labels({**labels, LABEL: "true"}) is HostRouting.EBPF


def test_a_file_that_cannot_be_read_tells_nothing(tmp_path: Path) -> None:
    assert by_kubelet(tmp_path / "missing") is HostRouting.UNKNOWN
    assert by_kubelet(tmp_path) is HostRouting.UNKNOWN
    (tmp_path / "kubelet").write_bytes(b"\xff\nKUBELET_NODE_LABELS=a=b\n")
    assert by_kubelet(tmp_path / "kubelet") is HostRouting.NETFILTER
