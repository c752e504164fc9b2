"""What the kubelet's flags show: labels, as NMI and the boot guard's grep read them, and the kubenet network plugin.

Excluded: how the flags of NMI get their values (tests/unit/nmi/settings).
"""

import logging
import subprocess
from pathlib import Path

import pytest

from nmi.flag_table import RedirectMode
from nmi.node import kubenet
from nmi.node.host_routing import LABEL, LABELLED, HostRouting, by_kubelet, by_kubelet_flags, by_labels
from nmi.node.traffic_redirect import TrafficRedirect
from nmi.settings import Settings
from podidentity.exits import StartError

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


KUBENET = "KUBELET_CONFIG=\nKUBELET_FLAGS=--cgroup-driver=systemd --network-plugin=kubenet --v=2\n"


@pytest.mark.parametrize(
    ("text", "is_kubenet"),
    [
        (KUBENET, True),
        ("--network-plugin kubenet", True),
        ('FLAGS="--network-plugin=kubenet"', True),
        ('--network-plugin="kubenet"', True),
        ("-network-plugin=kubenet", True),
        ("--network-plugin=cni", False),
        ("--network-plugin=kubenet2", False),
        ("--network-plugin-mtu=1500 kubenet", False),
        ("# --network-plugin=kubenet", False),
        ("", False),
    ],
)
def test_kubenet_is_recognised_in_the_kubelets_flags(text: str, is_kubenet: bool) -> None:
    assert kubenet.names_kubenet(text) is is_kubenet


@pytest.mark.parametrize("text", [KUBENET.encode(), b"\xff\xfe--network-plugin=kubenet"], ids=["text", "not text"])
def test_a_node_with_kubenet_is_rejected_and_the_error_names_the_flag_to_accept_it(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "kubelet").write_bytes(text)
    with pytest.raises(StartError, match="--allow-network-plugin-kubenet"):
        kubenet.check(tmp_path / "kubelet", allowed=False)


@pytest.mark.parametrize("redirect", RedirectMode)
async def test_nmi_does_not_start_there_whatever_redirects_to_it(redirect: RedirectMode, tmp_path: Path) -> None:
    (tmp_path / "kubelet").write_text(KUBENET)
    settings = Settings(node_name="n", redirect=redirect, kubelet_config=tmp_path / "kubelet")
    with pytest.raises(StartError, match="--allow-network-plugin-kubenet"):
        await TrafficRedirect(settings, "10.244.0.9").prepare()


def test_a_flag_accepts_kubenet(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "kubelet").write_text(KUBENET)
    kubenet.check(tmp_path / "kubelet", allowed=True)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_a_missing_or_unreadable_configuration_is_not_fatal(tmp_path: Path) -> None:
    kubenet.check(tmp_path / "none", allowed=False)
    kubenet.check(tmp_path, allowed=False)
