"""The boot guard: the unit as systemd reads it, and with packets what its command does before any NMI runs."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from nmi.node import boot_guard
from nmi.node.traffic_redirect import redirect_spec
from nmi.settings import Settings
from podidentity.exits import StartError
from tests.nmi.node.machines import ROOT, Machine
from tests.nmi.node.pod_node_imds import Site, asked
from tests.nmi.node.redirect_process import RedirectProcess

TO = redirect_spec(Settings(node_name="n"))
REJECT = "-A FORWARD -d 169.254.169.254/32 -p tcp -m tcp --dport 80 -j REJECT --reject-with tcp-reset"


def lines_of(directory: Path, key: str) -> list[str]:
    """The values of *key* in the installed unit."""
    text = (directory / boot_guard.NAME).read_text()
    return [line.partition("=")[2] for line in text.splitlines() if line.startswith(f"{key}=")]


def nmi(*flags: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "nmi", *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.programs
def test_the_unit_is_written_enabled_found_again_and_removed(tmp_path: Path) -> None:
    others = tmp_path / boot_guard.WANTED_BY / "other.service"
    others.parent.mkdir()
    others.touch()
    place = f"--systemd-directory={tmp_path}"
    assert "installed the boot guard (" in nmi("--boot-guard=install", place).stdout
    assert boot_guard.installed(tmp_path)
    link = others.parent / boot_guard.NAME
    assert link.resolve() == tmp_path / boot_guard.NAME
    assert (tmp_path / boot_guard.NAME).stat().st_mode & 0o777 == 0o644
    assert "is installed already" in nmi("--boot-guard=install", place).stdout
    assert "removed the boot guard" in nmi("--boot-guard=remove", place).stdout
    assert [each.name for each in tmp_path.rglob("*")] == [others.parent.name, "other.service"]
    assert "there was no boot guard" in nmi("--boot-guard=remove", place).stdout


def test_the_directory_of_links_is_removed_with_the_last_link(tmp_path: Path) -> None:
    assert boot_guard.install(tmp_path, TO)
    assert boot_guard.remove(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_unit_of_another_version_or_edited_by_hand_is_replaced_completely(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("another program's file")
    (tmp_path / boot_guard.NAME).symlink_to(elsewhere)
    (tmp_path / boot_guard.WANTED_BY).mkdir()
    (tmp_path / boot_guard.WANTED_BY / boot_guard.NAME).symlink_to("/dev/null")
    assert boot_guard.install(tmp_path, TO)
    assert boot_guard.installed(tmp_path)
    assert elsewhere.read_text() == "another program's file", "nothing is written through a link"
    (tmp_path / boot_guard.NAME).write_text("[Unit]\n")
    assert boot_guard.install(tmp_path, TO)
    assert not boot_guard.install(tmp_path, TO)
    assert (tmp_path / boot_guard.NAME).read_text() == boot_guard.unit(TO)


def test_a_missing_directory_is_reported_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="mount the host's /etc/systemd/system there, writable"):
        boot_guard.install(tmp_path / "missing", TO)
    assert not boot_guard.remove(tmp_path / "missing")


def test_the_unit_is_ordered_before_the_kubelet_and_required_by_it(tmp_path: Path) -> None:
    """The unit starts after units that load whole rule sets, because these would remove the rule."""
    boot_guard.install(tmp_path, TO)
    assert lines_of(tmp_path, "Before") == ["kubelet.service"]
    assert {"firewalld.service", "netfilter-persistent.service"} <= set(lines_of(tmp_path, "After")[0].split())
    assert boot_guard.WANTED_BY == "kubelet.service.wants"
    assert lines_of(tmp_path, "Type") == ["oneshot"], "the kubelet waits for its end, not for its start"


@pytest.mark.root
@pytest.mark.parametrize("order", ["Before", "After"])
def test_systemd_starts_the_unit_before_the_kubelet(tmp_path: Path, order: str) -> None:
    """If a unit required the kubelet first, systemd would find a cycle. So the link starts the guard, in this order."""
    boot_guard.install(tmp_path, TO)
    kubelet = f"[Unit]\nDefaultDependencies=no\n{order}={boot_guard.NAME}\n[Service]\nExecStart=/bin/true\n"
    (tmp_path / "kubelet.service").write_text(kubelet)
    done = subprocess.run(
        ["systemd-analyze", "verify", str(tmp_path / "kubelet.service")],
        env={"PATH": os.environ["PATH"], "SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ("ordering cycle" in done.stderr) is (order == "Before"), done.stderr


@pytest.mark.root
def test_systemd_analyze_finds_no_fault(tmp_path: Path) -> None:
    boot_guard.install(tmp_path, TO)
    done = subprocess.run(
        ["systemd-analyze", "verify", str(tmp_path / boot_guard.NAME)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


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
    boot_guard.install(tmp_path, TO)
    assert asked(site.pod) == "imds saw 10.244.0.7", "a reboot without the guard"
    boot(site.node, backend, tmp_path)
    assert asked(site.pod) == "ConnectionRefusedError"
    assert asked(site.node) == "imds saw 169.254.0.1", "the node itself is not meant"
    boot(site.node, backend, tmp_path)
    assert site.node.rules(backend, "FORWARD") == [REJECT], "once, however often the unit runs"
    with RedirectProcess(site.node, "--fail-closed") as started:
        assert started.installed()["repairs"] == 0
        assert site.node.rules(backend, "FORWARD") == [REJECT], "NMI recognises the rule as its own"
        assert asked(site.pod) == "nmi saw 10.244.0.7"
    done = site.node.finish(sys.executable, "-m", "nmi", "--cleanup", f"--systemd-directory={tmp_path}")
    assert f"removed the boot guard ({tmp_path / boot_guard.NAME})" in done.stdout, done.stderr
    assert not boot_guard.installed(tmp_path)
    assert site.node.rules(backend, "FORWARD") == []
    assert asked(site.pod) == "imds saw 10.244.0.7"


@pytest.mark.root
def test_the_guard_comes_before_foreign_rules_that_accept(site: Site, backend: str, tmp_path: Path) -> None:
    """The rule is inserted first, so that no accepting rule precedes it."""
    site.node.run(f"iptables-{backend}", "-A", "FORWARD", "-j", "ACCEPT")
    boot_guard.install(tmp_path, TO)
    boot(site.node, backend, tmp_path)
    assert asked(site.pod) == "ConnectionRefusedError"
