"""The Debian packages of a build are those of packages.lock; otherwise nothing is installed. apt-get is a fake here."""

import os
import re
import sys
import tomllib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pytest

from deploy.docker import install_packages
from deploy.docker.install_packages import GROUPS, LOCK, planned_versions, preferences
from tests.repository.release.conftest import make
from tests.support.checkout import ROOT
from tools import lock_packages

TEXT: Final = LOCK.read_text()
LOCKED: Final[dict[str, Any]] = tomllib.loads(TEXT)
SMALL: Final = """\
snapshot = "20261129T000000Z"
[bookworm.amd64]
"conntrack" = "1:1.4.7-1+b2"
"iptables" = "1.8.9-2"
"libmnl0" = "1.0.4-3"
"nftables" = "1.0.6-2+deb12u2"
"""
SAME: Final = """\
Inst libmnl0 (1.0.4-3 Debian:12.15/oldstable [amd64])
Inst conntrack (1:1.4.7-1+b2 Debian:12.15/oldstable [amd64])
Inst iptables (1.8.9-2 Debian:12.15/oldstable [amd64])
Inst nftables [1.0.6-2] (1.0.6-2+deb12u2 Debian-Security:12/oldstable-security [amd64]) []
Conf libmnl0 (1.0.4-3 Debian:12.15/oldstable [amd64])
"""
NEXT: Final = (
    "renew the lock (make lock-packages), or accept the differences in images that are not released: "
    'IMAGE_FLAGS="--build-arg PACKAGES=newest"'
)
APT_GET: Final = """\
#!/bin/sh
echo "$*" >>"$CALLS"
if [ -n "$CONFLICT" ] && [ -e "$PREFERENCES" ]; then
    case "$*" in *--simulate*) echo "$CONFLICT" >&2; exit 100 ;; esac
fi
case "$*" in *--simulate*) echo "$SIMULATION" ;; esac
case "$SIMULATION" in E:*) echo "$SIMULATION" >&2; exit 100 ;; esac
"""


Install = Callable[..., tuple[str, list[str]]]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Install nmi's packages where apt-get prints *simulation*. Return the reason against it, and the installations.

    With *conflict* apt-get prints that instead and fails, as long as locked versions are preferred.
    """
    calls = tmp_path / "calls"
    calls.touch()
    (tmp_path / "apt-get").write_text(APT_GET)
    (tmp_path / "apt-get").chmod(0o755)
    monkeypatch.setenv("CALLS", str(calls))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def run(
        simulation: str,
        release: str = "bookworm",
        architecture: str = "amd64",
        *,
        newest: bool = False,
        conflict: str = "",
    ) -> tuple[str, list[str]]:
        monkeypatch.setenv("SIMULATION", simulation)
        monkeypatch.setenv("CONFLICT", conflict)
        monkeypatch.setenv("PREFERENCES", str(tmp_path / "preferences"))
        reason = install_packages.install("nmi", SMALL, release, architecture, tmp_path / "preferences", newest=newest)
        installations = [line for line in calls.read_text().splitlines() if line.startswith("install")]
        return reason, [line for line in installations if "--simulate" not in line]

    return run


def test_packages_with_the_locked_versions_are_installed(install: Install) -> None:
    assert install(SAME) == ("", ["install -y -q --no-install-recommends --no-remove iptables nftables conntrack"])


NEWER: Final = SAME.replace("(1.0.4-3 ", "(1.0.5-1 ")
DIFFERENCE: Final = "libmnl0 1.0.5-1, but 1.0.4-3 is locked"


def test_nothing_is_installed_where_a_dependency_has_another_version(install: Install) -> None:
    reason, installations = install(NEWER)
    assert f"\n  {DIFFERENCE}\n" in reason
    assert "20261129T000000Z" in reason
    assert reason.endswith(NEXT)
    assert installations == []


def test_nothing_is_installed_with_a_dependency_that_is_not_locked(install: Install) -> None:
    reason, installations = install(SAME + "Inst libnew1 (1-1 Debian:12.15/oldstable [amd64])\n")
    assert "\n  libnew1 1-1 is not locked\n" in reason
    assert reason.endswith(NEXT)
    assert installations == []


def test_the_message_of_a_failed_apt_get_is_reported_with_the_next_action(install: Install) -> None:
    reason, installations = install("E: no such version")
    assert "E: no such version" in reason
    assert reason.endswith(NEXT)
    assert installations == []


@pytest.mark.parametrize("base", [("forky", "amd64"), ("bookworm", "riscv64")])
def test_a_base_that_the_lock_does_not_have_is_refused(install: Install, base: tuple[str, str]) -> None:
    reason, installations = install(SAME, *base)
    assert f"deploy/docker/packages.lock ({', '.join(base)}) has no packages" in reason
    assert installations == []


def test_a_build_for_tests_installs_what_the_mirror_has_and_prints_the_difference(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    reason, installations = install(NEWER, newest=True)
    assert (reason, len(installations)) == ("", 1)
    assert DIFFERENCE in capsys.readouterr().err


CONFLICT: Final = "E: zlib1g-dev : Depends: zlib1g (= 1.2) but 1.3 is to be installed"


def test_a_build_for_tests_prefers_no_locked_version_that_the_base_excludes(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    reason, installations = install(NEWER, newest=True, conflict=CONFLICT)
    assert (reason, len(installations)) == ("", 1)
    printed = capsys.readouterr().err
    assert CONFLICT in printed
    assert DIFFERENCE in printed


def test_another_build_fails_with_the_conflict(install: Install) -> None:
    reason, installations = install(NEWER, conflict=CONFLICT)
    assert CONFLICT in reason
    assert reason.endswith(NEXT)
    assert installations == []


@pytest.mark.parametrize("target", ["release-images", "release-dry-run"])
def test_the_images_of_a_release_are_built_from_the_snapshot(target: str) -> None:
    (command, *_) = [line for line in make(ROOT, "-n", target).stdout.splitlines() if "local-images" in line]
    assert f"DEBIAN_SNAPSHOT={lock_packages.ARCHIVE}" in command


def test_a_local_build_takes_the_snapshot_from_the_lock_and_only_one_on_a_mirror_installs_other_packages() -> None:
    script = (ROOT / "tools" / "local-images").read_text()
    assert r"""day=$(sed -n 's/^snapshot = "\(.*\)"/\1/p' "$source/deploy/docker/packages.lock")""" in script
    assert '[ -n "${DEBIAN_SNAPSHOT:-}" ] || flags="$flags --build-arg PACKAGES=newest"' in script
    assert script.count("PACKAGES=newest") == 1


def test_apt_prefers_the_locked_version_and_replaces_no_newer_one() -> None:
    text = preferences({"conntrack": "1:1.4.7-1+b2"})
    assert text == "Package: conntrack\nPin: version 1:1.4.7-1+b2\nPin-Priority: 990\n"


def test_an_upgrade_of_a_package_of_the_base_is_compared_too() -> None:
    assert planned_versions(SAME)["nftables"] == "1.0.6-2+deb12u2"
    assert len(planned_versions(SAME)) == 4


def test_the_lock_has_each_installed_package_with_its_dependencies() -> None:
    for release in lock_packages.RELEASES:
        for architecture in lock_packages.ARCHITECTURES:
            installed = {name for group in GROUPS.values() for name in group}
            assert installed | {"libc6", "libmnl0", "linux-libc-dev"} <= LOCKED[release][architecture].keys()


def test_the_lock_is_what_make_lock_packages_writes() -> None:
    versions = {name: value for name, value in LOCKED.items() if name != "snapshot"}
    assert lock_packages.text_of(LOCKED["snapshot"], versions) == TEXT


def test_the_apt_sources_in_the_documentation_are_those_of_a_snapshot() -> None:
    lines = re.findall(r"deb \[check-valid-until=no\] (.+)", LOCK.with_name("README.md").read_text())
    made = lock_packages.sources("bookworm", lock_packages.ARCHIVE, "SNAPSHOT").splitlines()
    assert lines == [line.partition("] ")[2] for line in made]
    assert [line.partition("SNAPSHOT ")[2] for line in lines] == [
        "bookworm main",
        "bookworm-updates main",
        "bookworm-security main",
    ]


def test_the_versions_of_a_new_lock_are_read_from_the_snapshot_that_it_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_from = []

    class Apt:
        def __init__(self, _folder: Path, _architecture: str, apt_sources: str) -> None:
            read_from.append(apt_sources)

        def run(self, *arguments: str) -> str:
            return SAME if "--simulate" in arguments else ""

    monkeypatch.setattr(lock_packages, "Apt", Apt)
    monkeypatch.setattr(lock_packages, "LOCK", tmp_path / "packages.lock")
    monkeypatch.setattr(sys, "argv", ["lock_packages"])
    lock_packages.main()
    made = tomllib.loads((tmp_path / "packages.lock").read_text())
    lines = "".join(read_from).splitlines()
    assert len(lines) == 3 * len(lock_packages.RELEASES) * len(lock_packages.ARCHITECTURES)
    assert [line for line in lines if f"/{made['snapshot']} " not in line] == []
    assert made["bookworm"]["amd64"] == planned_versions(SAME)


def test_the_snapshot_of_a_new_lock_is_complete() -> None:
    assert lock_packages.snapshot_before(datetime(2026, 11, 30, 8, 12, tzinfo=UTC)) == "20261129T000000Z"
    assert lock_packages.snapshot_before(datetime(2026, 12, 1, 0, 0, tzinfo=UTC)) == "20261130T000000Z"
