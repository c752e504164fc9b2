"""The boot guard: the unit as systemd reads it, and with packets what its command does before any NMI runs."""

import asyncio
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from nmi.node import boot_guard
from nmi.node.host_routing import LABEL, LABELLED, HostRouting
from nmi.node.traffic_redirect import redirect_spec
from nmi.settings import NmiSettings
from podidentity.exits import StartError
from tests.support.checkout import ROOT
from tests.support.fault_proxy import Mode
from tests.support.identity_requests import end
from tests.support.nmi.node.fixtures import kubelet_with
from tests.support.nmi.node.machines import REJECT, Machine
from tests.support.nmi.node.pod_node_imds import Site, response_to
from tests.support.nmi.node.redirect_process import RedirectProcess
from tests.system.local.nmi.node.unavailable_api_server import start_without_api_server
from tests.unit.nmi.node.test_files_of_the_node import CASES

TO = redirect_spec(NmiSettings(node_name="n"))
ACCEPT = "-A FORWARD -j ACCEPT"
KUBELET = Path("/etc/default/kubelet")
WAIT_FOR_LABELS = "import nmi.node_labels; nmi.node_labels.FIRST_SECONDS = 600"
"""A slow machine must not decide whether the node's labels arrive in time."""


def lines_of(directory: Path, key: str) -> list[str]:
    """The values of *key* in the installed unit."""
    text = (directory / boot_guard.NAME).read_text()
    return [line.partition("=")[2] for line in text.splitlines() if line.startswith(f"{key}=")]


def nmi(*flags: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "nmi", *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.programs
def test_the_unit_is_written_enabled_found_again_and_removed(tmp_path: Path) -> None:
    others = tmp_path / boot_guard.WANTED_BY / "other.service"
    others.parent.mkdir()
    others.touch()
    place = f"--systemd-directory={tmp_path}"
    install = ("--boot-guard=install", place, kubelet_with("agentpool=a", tmp_path.with_name("kubelet")))
    done = nmi(*install)
    assert "installed the boot guard (" in done.stdout, done.stderr
    assert boot_guard.installed(tmp_path)
    link = others.parent / boot_guard.NAME
    assert link.resolve() == tmp_path / boot_guard.NAME
    assert (tmp_path / boot_guard.NAME).stat().st_mode & 0o777 == 0o644
    assert "is installed already" in nmi(*install).stdout
    assert "removed the boot guard" in nmi("--boot-guard=remove", place).stdout
    assert [path.name for path in tmp_path.rglob("*")] == [others.parent.name, "other.service"]
    assert "there was no boot guard" in nmi("--boot-guard=remove", place).stdout


def test_a_unit_of_another_version_or_edited_by_hand_is_replaced_completely(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("another program's file")
    (tmp_path / boot_guard.NAME).symlink_to(elsewhere)
    (tmp_path / boot_guard.WANTED_BY).mkdir()
    (tmp_path / boot_guard.WANTED_BY / boot_guard.NAME).symlink_to("/dev/null")
    assert boot_guard.install(tmp_path, TO, KUBELET)
    assert boot_guard.installed(tmp_path)
    assert elsewhere.read_text() == "another program's file", "nothing is written through a link"
    (tmp_path / boot_guard.NAME).write_text("[Unit]\n")
    assert boot_guard.install(tmp_path, TO, KUBELET)
    assert not boot_guard.install(tmp_path, TO, KUBELET)
    assert (tmp_path / boot_guard.NAME).read_text() == boot_guard.unit(TO, KUBELET)
    assert boot_guard.remove(tmp_path)
    assert list(tmp_path.iterdir()) == [elsewhere], "the directory of links is removed with the last link"


def test_a_missing_directory_is_reported_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="mount the host's /etc/systemd/system there, writable"):
        boot_guard.install(tmp_path / "missing", TO, KUBELET)
    assert not boot_guard.remove(tmp_path / "missing")


def test_the_unit_is_ordered_before_the_kubelet_and_required_by_it(tmp_path: Path) -> None:
    """The unit starts after units that load whole rule sets, because these would remove the rule."""
    boot_guard.install(tmp_path, TO, KUBELET)
    assert lines_of(tmp_path, "Before") == ["kubelet.service"]
    assert {"firewalld.service", "netfilter-persistent.service"} <= set(lines_of(tmp_path, "After")[0].split())
    assert boot_guard.WANTED_BY == "kubelet.service.wants"
    assert lines_of(tmp_path, "Type") == ["oneshot"], "the kubelet waits for its end, not for its start"


@pytest.mark.root
@pytest.mark.parametrize("order", ["Before", "After"])
def test_systemd_starts_the_unit_before_the_kubelet(tmp_path: Path, order: str) -> None:
    """If a unit required the kubelet first, systemd would find a cycle. So the link starts the guard, in this order."""

    def analyzed(name: str) -> str:
        """Return what systemd finds in a unit. Its directory has precedence."""
        environment = {"PATH": os.environ["PATH"], "SYSTEMD_UNIT_PATH": f"{tmp_path}:"}
        command = ["systemd-analyze", "verify", str(tmp_path / name)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
        return f"{done.returncode} {done.stdout}{done.stderr}"

    boot_guard.install(tmp_path, TO, KUBELET)
    assert analyzed(boot_guard.NAME) == "0 "
    kubelet = f"[Unit]\nDefaultDependencies=no\n{order}={boot_guard.NAME}\n[Service]\nExecStart=/bin/true\n"
    (tmp_path / "kubelet.service").write_text(kubelet)
    assert ("ordering cycle" in analyzed("kubelet.service")) is (order == "Before")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    directory = tmp_path / "units"
    directory.mkdir()
    return directory


@pytest.mark.programs
def test_an_aks_node_with_ebpf_host_routing_gets_no_unit_and_loses_one(directory: Path, tmp_path: Path) -> None:
    boot_guard.install(directory, TO, KUBELET)
    flags = (f"--systemd-directory={directory}", kubelet_with(f"agentpool=a,{LABEL}=true", tmp_path / "kubelet"))
    done = nmi("--boot-guard=install", *flags)
    assert f"{LABEL}=true, where its rule could keep Cilium from starting: the boot guard was removed" in done.stdout
    assert list(directory.iterdir()) == []
    assert "no boot guard is installed" in nmi("--boot-guard=install", *flags).stdout
    assert list(directory.iterdir()) == []


@pytest.mark.programs
def test_without_labels_and_without_a_way_to_read_them_nothing_changes(tmp_path: Path) -> None:
    done = nmi("--boot-guard=install", f"--systemd-directory={tmp_path}", "--kubelet-config=/nowhere")
    assert done.returncode == 1
    assert "cannot find out whether this node has eBPF host routing" in done.stderr
    assert "--kubelet-config with the file of KUBELET_NODE_LABELS" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.programs
@pytest.mark.parametrize(("value", "installed"), [("true", False), ("false", True)])
async def test_the_label_of_the_node_object_decides_where_the_kubelets_flags_lack_it(
    directory: Path, tmp_path: Path, value: str, installed: bool
) -> None:
    async with start_without_api_server(tmp_path) as away:
        away.api.store.create("nodes", {"metadata": {"name": "n0", "labels": {LABEL: value}}})
        for local in (kubelet_with("agentpool=a", tmp_path / "kubelet"), "--kubelet-config=/nowhere"):
            guard = ("--boot-guard=install", f"--systemd-directory={directory}")
            command = await away.nmi(*guard, local, change=WAIT_FOR_LABELS)
            assert await command.program.wait() == 0, command.log()
            assert await asyncio.to_thread(boot_guard.installed, directory) is installed


@pytest.mark.programs
async def test_without_an_api_server_the_labels_in_the_kubelets_flags_decide(directory: Path, tmp_path: Path) -> None:
    def files() -> list[str]:
        return [path.name for path in directory.iterdir()]

    flags = ("--boot-guard=install", f"--systemd-directory={directory}")
    async with start_without_api_server(tmp_path) as away:
        await away.proxy.set_mode(Mode.REFUSE)
        waiting = await away.nmi(*flags, "--kubelet-config=/nowhere")
        await waiting.logged("no contact with the API server")
        assert files() == [], "it waits, and neither installs nor gives up"
        local = await away.nmi(*flags, kubelet_with("agentpool=a", tmp_path / "kubelet"))
        assert await local.program.wait() == 0
        assert "installed the boot guard" in local.log()
        assert await asyncio.to_thread(boot_guard.remove, directory)
        away.api.store.create("nodes", {"metadata": {"name": "n0", "labels": {LABEL: "true"}}})
        ended = await away.nmi(*flags, "--kubelet-config=/nowhere")
        await ended.logged("no contact with the API server")
        # The first process of a container, as NMI is, needs a handler for the signal.
        assert await end(ended.program) == 1
        _, line = ended.log().splitlines()
        assert "not changed, because a signal ended the wait for the node's labels: run this again" in line
        await away.proxy.set_mode(Mode.PASS)
        assert await waiting.program.wait() == 0
        assert files() == []


@pytest.mark.programs
@pytest.mark.parametrize(("text", "expected"), CASES)
def test_the_boot_guards_grep_finds_the_same_label(text: str, expected: HostRouting, tmp_path: Path) -> None:
    (tmp_path / "kubelet").write_text(text)
    done = subprocess.run(["grep", "-Eqsw", LABELLED, str(tmp_path / "kubelet")], check=False)
    assert (done.returncode == 0) is (expected is HostRouting.EBPF)


def test_a_path_that_systemd_or_the_shell_would_change_is_refused() -> None:
    for path in ("/etc/$(id)", "/etc/a b", "/etc/%i", "/etc/a'b", "/etc/ä"):
        with pytest.raises(StartError, match="use a path of letters"):
            boot_guard.unit(TO, Path(path))


def boot(node: Machine, backend: str, directory: Path) -> None:
    """Run the unit's command on a node whose iptables is of this backend."""
    (command,) = lines_of(directory, "ExecStart")
    programs = directory / f"host-{backend}"
    programs.mkdir(exist_ok=True)
    program = programs / "iptables"
    program.unlink(missing_ok=True)
    program.symlink_to(f"/usr/sbin/iptables-{backend}")
    node.run("env", f"PATH={programs}:/usr/sbin:/usr/bin:/sbin:/bin", *shlex.split(command))


@pytest.mark.root
def test_pods_are_rejected_before_nmi_runs_and_nmi_takes_over_the_rule(
    site: Site, backend: str, tmp_path: Path
) -> None:
    boot_guard.install(tmp_path, TO, KUBELET)
    site.node.run(f"iptables-{backend}", "-A", "FORWARD", "-j", "ACCEPT")
    assert response_to(site.pod) == "imds saw 10.244.0.7", "a reboot without the guard"
    boot(site.node, backend, tmp_path)
    assert response_to(site.pod) == "ConnectionRefusedError"
    assert response_to(site.node) == "imds saw 169.254.0.1", "the node itself is not meant"
    boot(site.node, backend, tmp_path)
    assert site.node.rules(backend, "FORWARD") == [REJECT, ACCEPT], "once, however often the unit runs, and first"
    with RedirectProcess(site.node, "--fail-closed") as started:
        assert started.installed()["repairs"] == 0
        assert site.node.rules(backend, "FORWARD") == [REJECT, ACCEPT], "NMI recognises the rule as its own"
        assert response_to(site.pod) == "nmi saw 10.244.0.7"
    done = site.node.finish(sys.executable, "-m", "nmi", "--cleanup", f"--systemd-directory={tmp_path}")
    assert f"removed the boot guard ({tmp_path / boot_guard.NAME})" in done.stdout, done.stderr
    assert not boot_guard.installed(tmp_path)
    assert site.node.rules(backend, "FORWARD") == [ACCEPT]
    assert response_to(site.pod) == "imds saw 10.244.0.7"


@pytest.mark.root
def test_a_node_that_has_become_one_with_ebpf_host_routing_boots_without_the_rule(
    site: Site, backend: str, tmp_path: Path
) -> None:
    """The unit of a former installation reads the kubelet's flags at each boot, without NMI and an API server."""
    kubelet = tmp_path / "kubelet"
    kubelet_with("agentpool=a", kubelet)
    boot_guard.install(tmp_path, TO, kubelet)
    boot(site.node, backend, tmp_path)
    boot(site.node, backend, tmp_path)
    assert site.node.rules(backend, "FORWARD") == [REJECT]
    kubelet_with(f"agentpool=a,{LABEL}=true,b=c", kubelet)
    boot(site.node, backend, tmp_path)
    assert site.node.rules(backend, "FORWARD") == [], "not even one that the host has saved"
    boot(site.node, backend, tmp_path)
    assert site.node.rules(backend, "FORWARD") == []
