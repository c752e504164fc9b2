"""route_localnet: detected as off, switched on, and guarded. Excluded: the effect on packets (test_packets)."""

from pathlib import Path

import pytest

from nmi.node import route_localnet
from nmi.node.rule_text import all_rules
from podidentity.exits import StartError
from tests.support.nmi.node.machines import Machine

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
        {"all": "1", "default": "0", "eth0": "0", "lo": "0"},
        {"all": "0", "default": "1", "eth0": "1", "lo": "0"},
        {"all": "2", "default": "0", "eth0": "0"},
    ],
    ids=["all interfaces", "each interface and the default", "any number except zero"],
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


@pytest.mark.root
def test_net_admin_suffices_to_write_a_mounted_file(machine: Machine) -> None:
    """As in NMI's container: /proc/sys is read-only and the file is mounted elsewhere."""
    script = """
mount -t tmpfs tmpfs /mnt && touch /mnt/file && mount --bind /proc/sys/net/ipv4/conf/all/route_localnet /mnt/file
mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys
exec setpriv --bounding-set=-all,+net_admin,+net_raw --inh-caps=-all .venv/bin/python -c '
from pathlib import Path
from nmi.node import route_localnet
from podidentity.exits import StartError
try:
    route_localnet.switch_on(mounted=Path("/missing"))
except StartError as error:
    print(error)
route_localnet.switch_on(mounted=Path("/mnt/file"))
print(Path("/proc/sys/net/ipv4/conf/all/route_localnet").read_text().strip())
'
"""
    refused, written = machine.run("unshare", "--mount", "sh", "-ec", script).splitlines()
    assert "cannot write /proc/sys/net/ipv4/conf/all/route_localnet (Read-only file system)" in refused
    assert written == "1"


def test_an_unwritable_proc_is_reported_with_the_next_action(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="give NMI a writable /proc/sys, or run `sysctl -w"):
        route_localnet.switch_on(tmp_path / "missing")


@pytest.mark.parametrize(("target", "needed"), [("127.0.0.1", True), ("127.9.9.9", True), ("10.0.0.4", False)])
def test_only_a_loopback_target_requires_it(target: str, needed: bool) -> None:
    assert route_localnet.needed(target) is needed


@pytest.mark.parametrize(
    ("rules", "guarded"),
    [
        (GUARD, True),
        (KUBELETS, True),
        (GUARD.replace("RELATED,ESTABLISHED,DNAT", "DNAT,RELATED,ESTABLISHED"), True),
        (KUBELETS.replace("-A INPUT -j", "-A INPUT -i eth9 -j"), False),
        (KUBELETS.replace("-A INPUT -j KUBE-FIREWALL\n", ""), False),
        (GUARD.replace("INPUT", "FORWARD"), False),
        (GUARD.replace("DROP", "LOG"), False),
        (GUARD.replace(" -m conntrack", " -p udp -m conntrack"), False),
        (GUARD.replace("RELATED,ESTABLISHED,DNAT", "RELATED,ESTABLISHED,DNAT,NEW"), False),
        ("", False),
    ],
    ids=[
        "ours", "kubelet's", "states in another order", "entered on a condition", "never entered", "another chain",
        "only logged", "only udp", "lets new ones in", "nothing",
    ],
)  # fmt: skip
def test_an_equal_guard_is_recognised_and_a_weaker_one_is_not(rules: str, guarded: bool) -> None:
    assert route_localnet.guarded(all_rules(rules)) is guarded


@pytest.mark.programs
async def test_a_failed_read_does_not_count_as_a_missing_guard(tmp_path: Path) -> None:
    program = tmp_path / "iptables"
    program.write_text('#!/bin/sh\necho "iptables: Bad rule" >&2\nexit 1\n')
    program.chmod(0o755)
    with pytest.raises(StartError, match=r"cannot read filter/INPUT .*Bad rule.*: look there for the guard"):
        await route_localnet.has_guard(str(program))


@pytest.mark.root
@pytest.mark.parametrize("backend", ["nft", "legacy"])
def test_the_guard_is_first_and_installed_once(machine: Machine, backend: str) -> None:
    program = f"/usr/sbin/iptables-{backend}"
    machine.run(program, "-A", "INPUT", "-p", "tcp", "-j", "ACCEPT")
    call = f"ensure_guard({program!r})"
    code = f"import asyncio; from nmi.node.route_localnet import ensure_guard; print(asyncio.run({call}))"
    assert machine.run(".venv/bin/python", "-c", code) == "True\n"
    assert machine.run(".venv/bin/python", "-c", code) == "False\n"
    rules = [line for line in machine.run(program, "-S", "INPUT").splitlines() if line.startswith("-A")]
    assert rules == [GUARD, "-A INPUT -p tcp -j ACCEPT"]
