"""Maintenance of rules, with a scripted driver; the pause between two reads of the tables; the patience of --cleanup.

Excluded: real tables (test_redirect_repair), and the notification of a change (test_rule_changes_sources).
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable

import pytest
from msgspec.structs import replace

from nmi.node import boot_guard
from nmi.node import cleanup as room
from nmi.node.redirect_choice import Backend
from nmi.node.rule_changes import BURST, GAP_SECONDS, RuleChangeNotifier
from nmi.node.rule_maintenance import RuleMaintenance
from nmi.node.rules import IptablesRuleState, LockHeldError, RedirectError, RedirectSpec, RuleDriver, TopRule
from nmi.settings import parse
from podidentity.exits import StartError
from tests.support.virtual_time import now

TO = RedirectSpec("169.254.169.254", 80, "127.0.0.1", 2579)
RULE = TO.redirect


def whole(rule: TopRule) -> IptablesRuleState:
    return IptablesRuleState(((1, rule.text),), rule.rules or None)


class Tables:
    """The node's tables, which a test may change, lock, or make unreadable; and tracked connections past the rule."""

    def __init__(self) -> None:
        self.present: dict[TopRule, IptablesRuleState] = {}
        self.errors: list[Exception] = []
        self.broken: dict[TopRule, Exception] = {}
        self.puts = 0
        self.undone = 0
        self.tracked = 0
        self.forget_errors: list[Exception] = []
        self.forgets = 0

    async def find(self, rule: TopRule) -> IptablesRuleState:
        self._fail(rule)
        return self.present.get(rule, IptablesRuleState(()))

    async def packets(self, rule: TopRule) -> int | None:
        raise AssertionError(rule)

    async def put(self, rule: TopRule) -> None:
        self._fail(rule)
        self.puts += 1
        if self.undone:
            self.undone -= 1
        else:
            self.present[rule] = whole(rule)

    async def detach(self, rule: TopRule) -> None:
        self._fail(rule)
        self.present[rule] = replace(self.present[rule], tops=())

    async def clear(self, rule: TopRule) -> None:
        self._fail(rule)
        self.present.pop(rule, None)

    async def forget(self) -> int:
        self.forgets += 1
        assert self.present, "the rule is there first"
        if self.forget_errors:
            raise self.forget_errors.pop(0)
        gone, self.tracked = self.tracked, 0
        return gone

    def _fail(self, rule: TopRule) -> None:
        if rule in self.broken:
            raise self.broken[rule]
        if self.errors:
            raise self.errors.pop(0)


class Bench:
    """A maintenance. Its sleeps end immediately and are recorded; after each one, an action of the test runs."""

    def __init__(self) -> None:
        self.tables = Tables()
        self.slept: list[float] = []
        self.during_sleep: list[Callable[[], None]] = []
        self.maintenance = RuleMaintenance(self.tables, forget=self.tables.forget, sleep=self._sleep)

    async def maintain(self) -> None:
        with pytest.raises(asyncio.CancelledError):
            await self.maintenance.maintain(60)

    async def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        if not self.during_sleep:
            raise asyncio.CancelledError
        self.during_sleep.pop(0)()


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_readiness_requires_an_installed_rule(bench: Bench) -> None:
    assert not bench.maintenance.in_force(RULE)
    await bench.maintenance.install(RULE)
    assert bench.maintenance.problem() is None
    assert bench.maintenance.in_force(RULE)
    await bench.maintenance.install(RULE)
    assert bench.tables.puts == 1, "an existing rule is not written again"
    await bench.maintenance.remove(RULE)
    assert not bench.maintenance.in_force(RULE)
    assert bench.maintenance.problem() == "the redirect of 169.254.169.254: it has been removed"


async def test_the_rule_is_checked_at_each_interval_and_repairs_are_counted(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> None:
        bench.tables.present.clear()

    await bench.maintenance.install(RULE)
    bench.during_sleep = [lambda: None, broken, lambda: None, broken]
    await bench.maintain()
    assert bench.slept == [60.0] * 5
    assert bench.maintenance.repairs == 2
    assert bench.tables.present[RULE] == whole(RULE)
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert [getattr(record, "reason", "") for record in warnings] == [
        "the redirect of 169.254.169.254: the chain is missing"
    ] * 2


@pytest.mark.parametrize("error", [RedirectError("no answer"), StartError("no rights"), ZeroDivisionError("a bug")])
async def test_a_failed_check_fails_the_probe_and_is_repeated_soon(bench: Bench, error: Exception) -> None:
    problems: list[str | None] = []

    def fails() -> None:
        bench.tables.errors = [error]

    def noted() -> None:
        problems.append(bench.maintenance.problem())

    await bench.maintenance.install(RULE)
    bench.during_sleep = [fails, noted, noted]
    await bench.maintain()
    assert bench.slept == [60.0, 5.0, 60.0, 60.0]
    assert problems[0] is not None
    assert problems[1] is None
    assert bench.maintenance.failures == 1


async def test_a_held_lock_is_waited_for_endlessly_with_growing_pauses(bench: Bench) -> None:
    bench.tables.errors = [LockHeldError("held")] * 40
    bench.during_sleep = [lambda: None] * 40
    await bench.maintenance.install(RULE)
    assert bench.maintenance.in_force(RULE)
    assert bench.slept == sorted(bench.slept)
    assert bench.slept[0] <= 0.1
    assert bench.slept[-1] == 2.0


async def test_a_held_lock_does_not_make_the_probe_fail(bench: Bench) -> None:
    await bench.maintenance.install(RULE)
    bench.tables.errors = [LockHeldError("held")]
    bench.during_sleep = [lambda: bench.tables.errors.clear() if bench.maintenance.problem() else None]
    assert await bench.maintenance.verify() is False


async def test_a_rule_that_disappears_after_the_write_is_no_success_and_is_retried_soon(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.tables.undone = 3
    await bench.maintenance.install(RULE)
    problem = "the redirect of 169.254.169.254: it was written, but then the chain is missing"
    assert str(bench.maintenance.problem()).startswith(problem)
    assert not bench.maintenance.in_force(RULE)
    assert "the rule is not in place yet" in caplog.text
    bench.during_sleep = [lambda: None]
    await bench.maintain()
    assert bench.slept == [5.0, 60.0]
    assert bench.maintenance.in_force(RULE)


async def test_missing_permissions_end_the_start(bench: Bench) -> None:
    bench.tables.errors = [StartError("no rights")]
    with pytest.raises(StartError):
        await bench.maintenance.install(RULE)


async def test_a_rule_that_is_removed_immediately_is_written_again(bench: Bench) -> None:
    bench.tables.undone = 2
    await bench.maintenance.install(RULE)
    assert bench.maintenance.in_force(RULE)


async def test_checks_and_removal_never_overlap(bench: Bench) -> None:
    inside = asyncio.Event()
    go_on = asyncio.Event()

    async def wait_for_the_lock(_: float) -> None:
        inside.set()
        await go_on.wait()

    maintenance = RuleMaintenance(bench.tables, sleep=wait_for_the_lock)
    bench.tables.errors = [LockHeldError("held")]
    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        tasks.create_task(maintenance.install(RULE))
        await inside.wait()
        removal = tasks.create_task(maintenance.remove(RULE))
        await asyncio.sleep(0)  # it runs, and must wait for the lock
        assert not removal.done()
        go_on.set()
    assert not bench.tables.present
    assert not maintenance.in_force(RULE)


async def test_an_unreadable_table_does_not_prevent_the_repair_of_another_rule(bench: Bench) -> None:
    for rule in (TO.reject, RULE):
        await bench.maintenance.install(rule)

    def broken() -> None:
        bench.tables.broken[TO.reject] = RedirectError("this table cannot be read")
        bench.tables.present.pop(RULE)

    bench.during_sleep = [broken]
    await bench.maintain()
    assert bench.tables.present[RULE] == whole(RULE)
    assert (bench.maintenance.repairs, bench.maintenance.failures) == (1, 1)
    assert bench.maintenance.problem() == "the reject of 169.254.169.254: this table cannot be read"
    assert bench.maintenance.in_force(RULE)
    assert not bench.maintenance.in_force(TO.reject)


async def test_connections_are_ended_after_the_installation_and_after_each_repair(bench: Bench) -> None:
    bench.tables.tracked = 2
    await bench.maintenance.install(RULE)
    assert bench.maintenance.forgotten == 2
    await bench.maintenance.verify()
    assert bench.tables.forgets == 1, "a rule that was always in place has no bypassing connections"
    bench.tables.present.clear()
    bench.tables.tracked = 1
    await bench.maintenance.verify()
    assert bench.maintenance.forgotten == 3


@pytest.mark.parametrize("error", [RedirectError("no answer"), StartError("no program")])
async def test_connections_that_cannot_be_ended_block_nothing_and_are_retried_soon(
    bench: Bench, error: Exception
) -> None:
    problems: list[str | None] = []

    def noted() -> None:
        problems.append(bench.maintenance.problem())

    bench.tables.forget_errors = [error, error]
    await bench.maintenance.install(RULE)
    assert bench.maintenance.in_force(RULE)
    bench.during_sleep = [noted, noted, noted]
    await bench.maintain()
    assert problems == [str(error), str(error), None]
    assert bench.slept == [5.0, 5.0, 60.0, 60.0]
    assert bench.tables.forgets == 3


async def test_without_changes_the_pause_is_the_interval() -> None:
    notifier = RuleChangeNotifier()
    begun = now()
    await notifier.pause(60)
    await notifier.pause(60)
    assert now() - begun == 120


async def test_a_change_ends_the_pause_immediately() -> None:
    notifier = RuleChangeNotifier()
    await notifier.pause(60)
    asyncio.get_running_loop().call_later(7, notifier.notify)
    begun = now()
    await notifier.pause(60)
    assert now() - begun == 7


async def test_continuous_changes_cause_a_few_immediate_checks_and_then_one_per_second() -> None:
    notifier = RuleChangeNotifier()

    async def change() -> None:
        while True:
            notifier.notify()
            await asyncio.sleep(0.01)

    changing = asyncio.create_task(change())
    begun = now()
    for _ in range(BURST):
        await notifier.pause(60)
    assert now() - begun < 0.1
    for _ in range(100):
        await notifier.pause(60)
    changing.cancel()
    assert 99 * GAP_SECONDS < now() - begun < 101 * GAP_SECONDS


async def test_after_a_quiet_time_immediate_checks_are_possible_again() -> None:
    notifier = RuleChangeNotifier()
    for _ in range(3):
        await notifier.pause(60)
        begun = now()
        for _ in range(BURST - 1):
            notifier.notify()
            await notifier.pause(60)
        assert now() == begun
        await asyncio.sleep(BURST * GAP_SECONDS)


async def test_a_change_during_a_check_causes_another_check() -> None:
    notifier = RuleChangeNotifier()
    await notifier.pause(60)
    notifier.notify()  # while the owner looks, after the table was read
    begun = now()
    await notifier.pause(60)
    assert now() == begun
    await notifier.pause(60)
    assert now() - begun == 60, "and only once"


async def test_an_interval_shorter_than_the_gap_is_used_unchanged() -> None:
    notifier = RuleChangeNotifier()
    for _ in range(BURST):
        notifier.notify()
        await notifier.pause(60)
    begun = now()
    for _ in range(3):
        await notifier.pause(0.5)
    assert now() - begun == 1.5


SETTINGS = parse(["--cleanup"], {})


def on_this_node(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """The node has a table with NMI's rule that cannot be changed, because of *error*."""
    tables = Tables()
    tables.broken[RULE] = error

    async def find(rule: TopRule) -> IptablesRuleState:
        return whole(rule)

    async def drivers(to: RedirectSpec) -> AsyncIterator[tuple[Backend, RuleDriver, tuple[TopRule, ...]]]:
        yield Backend.IPTABLES_LEGACY, tables, (to.redirect,)

    monkeypatch.setattr(tables, "find", find)
    monkeypatch.setattr(room, "_drivers", drivers)
    # These tests do not touch the machine's units; test_cleanup.py covers the guard in a separate directory.
    monkeypatch.setattr(boot_guard, "remove", lambda _directory: False)


async def test_a_lock_that_is_never_released_ends_cleanup_after_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    on_this_node(monkeypatch, LockHeldError("held"))
    begun = now()
    with pytest.raises(StartError, match=r"the xtables lock was held for 60 s: find the iptables process"):
        await room.cleanup(SETTINGS)
    assert now() - begun == 60


async def test_a_table_that_cannot_be_changed_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    on_this_node(monkeypatch, RedirectError("nat was not changed: no"))
    with pytest.raises(StartError, match="not everything was removed: nat was not changed: no; then run this again"):
        await room.cleanup(SETTINGS)
