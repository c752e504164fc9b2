"""Notifications of changes of real tables. Excluded: their effect (test_traffic_redirect)."""

import asyncio
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typing_extensions import override

from nmi.node.rule_changes import LockReleases, RuleChangeNotifier
from tests.support.nmi.node.machines import Machine, Program
from tests.support.waiting import until

# Reads a command, runs it, and prints whether the source for changes of PREROUTING and NMI's chain has a change.
LISTEN = """
import os, select, subprocess, sys
from nmi.node.rule_changes import NftChanges
source = NftChanges(["PREROUTING", "aad-metadata"], tables=["aad-pod-identity"])
print("listening", flush=True)
for line in sys.stdin:
    subprocess.run(["sh", "-c", line], check=True, stdout=subprocess.DEVNULL)
    ready, _, _ = select.select([source], [], [], 0)  # the kernel reports a change before its command ends
    print(source.read() if ready else None, flush=True)
"""


@pytest.fixture
def listener(machine: Machine) -> Iterator[Program]:
    """Yield a program that answers a command with True, False for an unrelated change, None without a change."""
    machine.run("iptables-nft", "-t", "nat", "-N", "OTHER")
    machine.run("iptables-nft", "-t", "nat", "-A", "PREROUTING", "-j", "OTHER")
    with Program(machine.start(sys.executable, "-c", LISTEN)) as listener:
        assert listener.read() == "listening"
        yield listener


@pytest.mark.root
@pytest.mark.parametrize(
    ("command", "response"),
    [
        ("iptables-nft -t nat -I PREROUTING -j RETURN", "True"),
        ("iptables-nft -t nat -F", "True"),
        ("iptables-nft -t nat -N aad-metadata", "True"),
        ("nft flush ruleset", "True"),
        ("nft delete table ip nat", "True"),
        ("iptables-nft -t nat -A OTHER -j RETURN", "False"),
        ("iptables-nft -t nat -N not-aad-metadata", "False"),
        ("iptables-nft -A FORWARD -j ACCEPT", "False"),
        ("nft add table ip aad-pod-identity", "True"),
        ("nft add table ip aad-pod-identity '{ flags dormant; }'", "True"),
        ("nft add table ip aad-pod-identity-7", "False"),
        ("nft add table ip other && nft add chain ip other aad-pod-identity", "False"),
        ("iptables-nft -t nat -S", "None"),
        ("true", "None"),
    ],
)
def test_the_kernel_reports_changes_of_relevant_chains_and_tables(
    listener: Program, command: str, response: str
) -> None:
    assert listener.ask(command) == response


@pytest.mark.root
def test_lost_change_reports_count_as_a_change(listener: Program) -> None:
    rules = (
        r'(echo "*nat"; seq -f "-A OTHER -s 10.1.%g.1 -j RETURN" 250; seq -f "-A OTHER -s 10.2.%g.1 -j RETURN" 250; '
    )
    assert listener.ask(rules + "echo COMMIT) | iptables-nft-restore --noflush") == "True"
    assert listener.ask("true") == "None", "and then it goes on"
    assert listener.ask("iptables-nft -t nat -F PREROUTING") == "True"


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    return tmp_path / "xtables.lock"


def used(lock: Path) -> None:
    """As an iptables program does."""
    os.close(os.open(lock, os.O_RDONLY | os.O_CREAT, 0o600))


@pytest.fixture
def releases(lock: Path) -> Iterator[LockReleases]:
    source = LockReleases(lock)
    assert lock.stat().st_mode & 0o777 == 0o600, "it was made as iptables makes it"
    yield source
    source.close()


def test_closing_the_lock_file_counts_as_a_change_also_if_it_was_recreated(releases: LockReleases, lock: Path) -> None:
    assert not releases.read()
    used(lock)
    assert [releases.read(), releases.read()] == [True, False]
    lock.unlink()
    assert releases.read()
    while releases.read():
        pass
    used(lock)
    assert releases.read()


async def test_the_alarm_is_raised_by_its_source(lock: Path) -> None:
    notifier = RuleChangeNotifier()
    async with notifier.listening_to(lambda: LockReleases(lock)):
        assert notifier.listening
        for _ in range(2):
            await asyncio.to_thread(used, lock)
            await notifier.pause(86400)
    assert not notifier.listening


async def test_an_unavailable_source_is_logged_once_and_the_interval_continues(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    notifier = RuleChangeNotifier()
    async with notifier.listening_to(lambda: LockReleases(tmp_path / "missing" / "lock")):
        assert not notifier.listening
        await notifier.pause(0.01)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "--ipt-update-interval-sec" in caplog.text


class Ending(LockReleases):
    """A source that ends with the first read."""

    @override
    def read(self) -> bool:
        raise OSError(19, "No such device")


async def test_a_source_that_ends_is_logged_once_and_the_interval_continues(
    lock: Path, caplog: pytest.LogCaptureFixture
) -> None:
    notifier = RuleChangeNotifier()
    async with notifier.listening_to(lambda: Ending(lock)):
        used(lock)
        await until(lambda: not notifier.listening)
        await notifier.pause(0.01)
    assert len(caplog.records) == 1
