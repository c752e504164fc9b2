"""Results of `make demo`, reasons why no machine can run, and the selection of runs."""

import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.fresh import machine, run
from tests.fresh.demos import DEMOS, Demo, faults
from tests.fresh.machine import apt_sources, registry_settings

WITHOUT, NFTABLES, IPTABLES, USER = DEMOS
OUTPUTS = {
    WITHOUT: "loopback addresses are used; install nftables for a redirect",
    NFTABLES: "tcp dport 80 dnat to 127.0.0.1:2579",
    IPTABLES: "-A aad-metadata -j DNAT --to-destination 127.0.0.1:2579",
    USER: "loopback addresses (not root)",
}


@pytest.mark.parametrize("demo", DEMOS, ids=lambda demo: demo.name)
def test_a_demo_must_show_its_own_redirect(demo: Demo) -> None:
    for shown, line in OUTPUTS.items():
        result = list(faults(demo, 0, f"{line}\nThe demo went well, in 3 s.\n"))
        assert (result == []) == (shown is demo), result


def test_a_demo_that_fails_or_does_not_reach_its_end_is_a_fault() -> None:
    assert list(faults(IPTABLES, 1, OUTPUTS[IPTABLES])) == [
        "the exit code is 1",
        "the output does not contain 'The demo went well'",
    ]


def test_the_reason_and_the_package_must_be_in_one_line() -> None:
    assert list(faults(WITHOUT, 0, "loopback addresses\nnftables\nThe demo went well\n"))


def test_only_settings_of_registries_are_carried_into_a_machine(tmp_path: Path) -> None:
    environment = {
        "PIP_CERT": f"{tmp_path}",
        "PIP_FIND_LINKS": f"{tmp_path}/missing {tmp_path}",
        "https_proxy": "http://proxy:3128",
        "HOME": "/root",
        "CI": "true",
        "NOT_PIP_CERT": "/etc",
    }
    settings, paths = registry_settings(environment)
    assert settings.keys() == {"PIP_CERT", "PIP_FIND_LINKS", "https_proxy"}
    assert paths == [str(tmp_path)]


def test_another_release_comes_from_the_mirrors_of_the_host() -> None:
    targets = (
        "Debian http://mirror/debian/ bookworm\nDebian http://mirror/debian/ bookworm\n"
        "Debian http://mirror/debian-security/ bookworm-security\nSomething http://other/ bookworm\n"
    )
    assert apt_sources(targets, "trixie") == [
        "deb http://mirror/debian-security/ trixie-security main",
        "deb http://mirror/debian/ trixie main",
    ]
    assert apt_sources("Ubuntu http://mirror/ubuntu/ noble\n", "trixie") == []


@pytest.fixture
def capable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that permits everything; no command runs."""

    def succeed(*_: object, **__: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess([], 0, "", "")

    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("shutil.which", lambda program: f"/usr/bin/{program}")
    monkeypatch.setattr("subprocess.run", succeed)
    monkeypatch.setattr(machine, "TUN", Path("/"))


def failing(word: str) -> Any:
    """Return a replacement of subprocess.run for which the commands with *word* fail."""

    def run_command(command: list[Any], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess([], word in map(str, command), "", "unshare: not permitted\n")

    return run_command


@pytest.mark.usefixtures("capable")
def test_each_obstacle_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.obstacle() == ""
    with monkeypatch.context() as patch:
        patch.setattr("subprocess.run", failing("fresh"))
        assert "cannot install" in machine.obstacle()
    with monkeypatch.context() as patch:
        patch.setattr("subprocess.run", failing("unshare"))
        assert machine.obstacle() == "namespaces or overlays are not permitted: unshare: not permitted"
    with monkeypatch.context() as patch:
        patch.setattr(machine, "TUN", Path("/missing/tun"))
        assert machine.obstacle().startswith("/missing/tun is missing")
    with monkeypatch.context() as patch:
        patch.setattr("shutil.which", lambda program: None if program == "mmdebstrap" else program)
        assert machine.obstacle() == "these programs are missing: mmdebstrap"
    with monkeypatch.context() as patch:
        patch.setattr("shutil.which", lambda _: None)
        assert "apt-get is missing" in machine.obstacle()
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert machine.obstacle() == "it needs root"


@pytest.mark.parametrize(("variable", "code"), [("true", 1), ("", 0)])
def test_a_machine_that_cannot_run_is_an_error_in_continuous_integration(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], variable: str, code: int
) -> None:
    monkeypatch.setenv("CI", variable)
    monkeypatch.setattr(run, "obstacle", lambda: "it needs root")
    assert run.main(["demos"]) == code
    assert capsys.readouterr().out == "make fresh: NOT RUN, because it needs root\n"


def test_a_scenario_that_fails_prints_the_end_of_its_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(log: Path) -> None:
        log.write_text("\n".join(f"line {number}" for number in range(100)))
        raise RuntimeError("the exit code is 1")

    assert not run.passed("demo", tmp_path / "demo.log", fail)
    first, *lines, last = capsys.readouterr().out.splitlines()
    assert first.startswith("demo: FAILED after ")
    assert lines == [f"line {number}" for number in range(60, 100)]
    assert last == f"demo: the exit code is 1; all of the output: {tmp_path}/demo.log"
    assert run.passed("demo", tmp_path / "demo.log", lambda _: None)


def test_one_failed_run_of_several_is_the_result_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "passed", lambda name, *_: "13 as root" not in name)
    assert not run.run_tests("HEAD", run.selected(""))
    assert run.run_tests("HEAD", run.selected("12"))


def test_words_select_releases_and_users() -> None:
    assert run.selected("") == [("12", "root"), ("12", "user"), ("13", "root"), ("13", "user")]
    assert run.selected("12 root") == [("12", "root")]
    assert run.selected("user") == [("12", "user"), ("13", "user")]
    with pytest.raises(ValueError, match="unknown: 11; use 12, 13, root, user"):
        run.selected("11 root")


def test_the_makefile_passes_the_selection_and_the_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def note(*arguments: object) -> bool:
        seen.append(arguments)
        return True

    monkeypatch.setattr(run, "obstacle", lambda: "")
    monkeypatch.setattr(run, "run_tests", note)
    command = ["make", "--dry-run", "fresh-test", "FRESH=13 root", "COMMIT=HEAD~1"]
    printed = subprocess.run(command, cwd=machine.ROOT, capture_output=True, text=True, check=True).stdout
    words = next(shlex.split(line) for line in printed.splitlines() if "tests.fresh.run" in line)
    assert run.main(words[words.index("tests.fresh.run") + 1 :]) == 0
    assert seen == [("HEAD~1", [("13", "root")])]
