"""What files of the node show: the kubelet's flags (labels, kubenet), the memory limit of a cgroup, and route_localnet.

Excluded: the boot guard's grep (test_boot_guard), the kernel's setting (test_traffic_redirect), packets (test_packets).
"""

import logging
from pathlib import Path

import pytest

from nmi.node import kubenet, route_localnet
from nmi.node.host_routing import LABEL, HostRouting, by_kubelet, by_kubelet_flags, by_labels
from nmi.node.memory_limit import memory_limit
from nmi.node.rule_text import all_rules
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


def test_a_flag_accepts_kubenet(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "kubelet").write_text(KUBENET)
    kubenet.check(tmp_path / "kubelet", allowed=True)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_a_missing_or_unreadable_configuration_is_not_fatal(tmp_path: Path) -> None:
    kubenet.check(tmp_path / "none", allowed=False)
    kubenet.check(tmp_path, allowed=False)


ROOT = 9223372036854771712


def proc(folder: Path, cgroup: str, *mounts: str) -> Path:
    """A /proc/self with these lines."""
    made = folder / "proc"
    made.mkdir()
    (made / "cgroup").write_text(cgroup)
    (made / "mountinfo").write_text("".join(f"{mount}\n" for mount in mounts))
    return made


def states(folder: Path, name: str, value: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(f"{value}\n")


def v2(top: Path, root: str = "/") -> str:
    return f"30 20 0:26 {root} {top} rw - cgroup2 cgroup2 rw"


def v1(top: Path, root: str = "/") -> str:
    return f"31 20 0:27 {root} {top} rw - cgroup cgroup rw,memory"


@pytest.mark.parametrize(("own", "parent", "least"), [("max", "max", None), (500, "max", 500), (500, 400, 400)])
def test_cgroup_version_2(tmp_path: Path, own: object, parent: object, least: int | None) -> None:
    top = tmp_path / "cgroup"
    states(top / "kubepods", "memory.max", parent)
    states(top / "kubepods" / "pod1", "memory.max", own)
    assert memory_limit(proc(tmp_path, "0::/kubepods/pod1\n", v2(top))) == least


@pytest.mark.parametrize(("own", "parent", "least"), [(ROOT, ROOT, None), (500, ROOT, 500), (500, 400, 400)])
def test_cgroup_version_1(tmp_path: Path, own: int, parent: int, least: int | None) -> None:
    top = tmp_path / "memory"
    states(top, "memory.limit_in_bytes", ROOT)
    states(top / "pods", "memory.limit_in_bytes", parent)
    states(top / "pods" / "pod1", "memory.limit_in_bytes", own)
    cgroup = "5:cpu:/elsewhere\n4:memory:/pods/pod1\n0::/\n"
    assert memory_limit(proc(tmp_path, cgroup, v1(top), v2(tmp_path / "unified"))) == least


def test_cgroup_namespace_of_a_container(tmp_path: Path) -> None:
    top = tmp_path / "memory"
    states(top, "memory.limit_in_bytes", 700)
    assert memory_limit(proc(tmp_path, "4:memory:/pods/pod1\n", v1(top, root="/pods/pod1"))) == 700


@pytest.mark.parametrize("text", ["", "nonsense", "0::/x\n0"])
def test_an_unreadable_file_means_no_limit(tmp_path: Path, text: str) -> None:
    assert memory_limit(proc(tmp_path, text)) is None
    assert memory_limit(tmp_path / "missing") is None


GUARD = "-A INPUT ! -s 127.0.0.0/8 -d 127.0.0.0/8 -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP"
KUBELETS = (
    "-A INPUT -j KUBE-FIREWALL\n"
    '-A KUBE-FIREWALL ! -s 127.0.0.0/8 -d 127.0.0.0/8 -m comment --comment "block incoming localnet connections" '
    "-m conntrack ! --ctstate ESTABLISHED,RELATED,DNAT -j DROP\n"
)


def conf(root: Path, **values: str) -> Path:
    for name, value in values.items():
        (root / name).mkdir()
        (root / name / "route_localnet").write_text(value + "\n")
    return root


@pytest.mark.parametrize(
    "values",
    [
        pytest.param({"all": "1", "default": "0", "eth0": "0", "lo": "0"}, id="all interfaces"),
        pytest.param({"all": "0", "default": "1", "eth0": "1", "lo": "0"}, id="each interface and the default"),
        pytest.param({"all": "2", "default": "0", "eth0": "0"}, id="any number except zero"),
    ],
)
def test_it_is_on_by_either_setting(tmp_path: Path, values: dict[str, str]) -> None:
    assert route_localnet.fault(conf(tmp_path, **values)) is None


@pytest.mark.parametrize("off", ["default", "eth0"])
def test_an_interface_without_it_is_reported_with_the_command_that_enables_it(tmp_path: Path, off: str) -> None:
    values = {"all": "0", "default": "1", "eth0": "1"} | {off: "0"}
    fault = route_localnet.fault(conf(tmp_path, **values))
    assert fault is not None
    assert f"route_localnet is 0 for {off}" in fault
    assert "sysctl -w net.ipv4.conf.all.route_localnet=1" in fault


def test_an_interface_that_disappears_during_the_check_is_ignored(tmp_path: Path) -> None:
    conf(tmp_path, all="0", default="1")
    (tmp_path / "eth0").mkdir()
    assert route_localnet.fault(tmp_path) is None


def test_enabling_covers_all_interfaces(tmp_path: Path) -> None:
    conf(tmp_path, all="0", default="0", eth0="0")
    route_localnet.switch_on(tmp_path)
    assert route_localnet.fault(tmp_path) is None


def test_a_mounted_file_is_written_instead(tmp_path: Path) -> None:
    mounted = tmp_path / "mounted"
    mounted.write_text("0\n")
    route_localnet.switch_on(tmp_path / "read-only", mounted)
    assert mounted.read_text() == "1\n"


def test_an_unwritable_proc_is_reported_with_the_next_action(tmp_path: Path) -> None:
    refused = (
        rf"cannot write {tmp_path}/missing/all/route_localnet \(No such file or directory\): mount .* at .*, "
        "give NMI a writable /proc/sys, or run `sysctl -w"
    )
    with pytest.raises(StartError, match=refused):
        route_localnet.switch_on(tmp_path / "missing")


@pytest.mark.parametrize(("target", "needed"), [("127.9.9.9", True), ("10.0.0.4", False)])
def test_only_a_loopback_target_requires_it(target: str, needed: bool) -> None:
    assert route_localnet.needed(target) is needed


@pytest.mark.parametrize(
    ("rules", "guarded"),
    [
        pytest.param(GUARD, True, id="ours"),
        pytest.param(KUBELETS, True, id="kubelet's"),
        pytest.param(
            GUARD.replace("RELATED,ESTABLISHED,DNAT", "DNAT,RELATED,ESTABLISHED"), True, id="states in another order"
        ),
        pytest.param(KUBELETS.replace("-A INPUT -j", "-A INPUT -i eth9 -j"), False, id="entered on a condition"),
        pytest.param(KUBELETS.replace("-A INPUT -j KUBE-FIREWALL\n", ""), False, id="never entered"),
        pytest.param(GUARD.replace("INPUT", "FORWARD"), False, id="another chain"),
        pytest.param(GUARD.replace("DROP", "LOG"), False, id="only logged"),
        pytest.param(GUARD.replace(" -m conntrack", " -p udp -m conntrack"), False, id="only udp"),
        pytest.param(
            GUARD.replace("RELATED,ESTABLISHED,DNAT", "RELATED,ESTABLISHED,DNAT,NEW"), False, id="lets new ones in"
        ),
        pytest.param("", False, id="nothing"),
    ],
)
def test_an_equal_guard_is_recognised_and_a_weaker_one_is_not(rules: str, guarded: bool) -> None:
    assert route_localnet.guarded(all_rules(rules)) is guarded
