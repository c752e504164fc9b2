"""Maintenance of rules, with a scripted driver. Excluded: real tables (test_redirect_repair)."""

import asyncio
import logging
from collections.abc import Callable

import pytest
from msgspec.structs import replace

from nmi.node.rule_maintenance import RuleMaintenance
from nmi.node.rules import FoundRules, LockHeldError, RedirectError, RedirectSpec, TopRule
from podidentity.exits import StartError

TO = RedirectSpec("169.254.169.254", 80, "127.0.0.1", 2579)
RULE = TO.redirect
NOTHING = FoundRules(())


def whole(rule: TopRule) -> FoundRules:
    return FoundRules(((1, rule.text),), rule.rules or None)


class Tables:
    """The node's tables, which a test may change, lock, or make unreadable."""

    def __init__(self) -> None:
        self.found: dict[TopRule, FoundRules] = {}
        self.errors: list[Exception] = []
        self.broken: set[TopRule] = set()
        self.puts = 0
        self.undone = 0

    async def find(self, rule: TopRule) -> FoundRules:
        self._fail(rule)
        return self.found.get(rule, NOTHING)

    async def packets(self, rule: TopRule) -> int | None:
        raise AssertionError(rule)

    async def put(self, rule: TopRule) -> None:
        self._fail(rule)
        self.puts += 1
        if self.undone:
            self.undone -= 1
        else:
            self.found[rule] = whole(rule)

    async def detach(self, rule: TopRule) -> None:
        self._fail(rule)
        self.found[rule] = replace(self.found[rule], tops=())

    async def clear(self, rule: TopRule) -> None:
        self._fail(rule)
        self.found.pop(rule, None)

    def _fail(self, rule: TopRule) -> None:
        if rule in self.broken:
            raise RedirectError("this table cannot be read")
        if self.errors:
            raise self.errors.pop(0)


class Connections:
    """Tracked connections between pods and the real IMDS; their deletion may fail."""

    def __init__(self) -> None:
        self.tracked = 0
        self.errors: list[Exception] = []
        self.asked = 0

    async def forget(self) -> int:
        self.asked += 1
        if self.errors:
            raise self.errors.pop(0)
        gone, self.tracked = self.tracked, 0
        return gone


class Clock:
    """Sleeps that end immediately and are recorded. After each one, an action of the test runs."""

    def __init__(self) -> None:
        self.slept: list[float] = []
        self.during_sleep: list[Callable[[], None]] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        if not self.during_sleep:
            raise asyncio.CancelledError
        self.during_sleep.pop(0)()


def nothing_happens() -> None:
    pass


@pytest.fixture
def tables() -> Tables:
    return Tables()


@pytest.fixture
def connections() -> Connections:
    return Connections()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def maintenance(tables: Tables, connections: Connections, clock: Clock) -> RuleMaintenance:
    return RuleMaintenance(tables, forget=connections.forget, sleep=clock.sleep)


async def maintain(maintenance: RuleMaintenance) -> None:
    with pytest.raises(asyncio.CancelledError):
        await maintenance.maintain(60)


async def test_readiness_requires_an_installed_rule(maintenance: RuleMaintenance) -> None:
    assert not maintenance.in_force(RULE)
    await maintenance.install(RULE)
    assert maintenance.problem() is None
    assert maintenance.in_force(RULE)
    await maintenance.remove(RULE)
    assert not maintenance.in_force(RULE)
    assert maintenance.problem() == "the redirect of 169.254.169.254: it has been removed"


async def test_an_existing_rule_is_not_written_again(maintenance: RuleMaintenance, tables: Tables) -> None:
    tables.found[RULE] = whole(RULE)
    await maintenance.install(RULE)
    assert tables.puts == 0


async def test_the_rule_is_checked_at_each_interval_and_repairs_are_counted(
    maintenance: RuleMaintenance, tables: Tables, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> None:
        tables.found.clear()

    await maintenance.install(RULE)
    clock.during_sleep = [nothing_happens, broken, nothing_happens, broken]
    await maintain(maintenance)
    assert clock.slept == [60.0] * 5
    assert maintenance.repairs == 2
    assert tables.found[RULE] == whole(RULE)
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert [getattr(record, "reason", "") for record in warnings] == [
        "the redirect of 169.254.169.254: the chain is missing"
    ] * 2


@pytest.mark.parametrize("error", [RedirectError("no answer"), StartError("no rights"), ZeroDivisionError("a bug")])
async def test_a_failed_check_fails_the_probe_and_is_repeated_soon(
    maintenance: RuleMaintenance, tables: Tables, clock: Clock, error: Exception
) -> None:
    problems: list[str | None] = []

    def fails() -> None:
        tables.errors = [error]

    def noted() -> None:
        problems.append(maintenance.problem())

    await maintenance.install(RULE)
    clock.during_sleep = [fails, noted, noted]
    await maintain(maintenance)
    assert clock.slept == [60.0, 5.0, 60.0, 60.0]
    assert problems[0] is not None
    assert problems[1] is None
    assert maintenance.failures == 1


async def test_a_held_lock_is_waited_for_endlessly_with_growing_pauses(
    maintenance: RuleMaintenance, tables: Tables, clock: Clock
) -> None:
    tables.errors = [LockHeldError("held")] * 40
    clock.during_sleep = [nothing_happens] * 40
    await maintenance.install(RULE)
    assert maintenance.in_force(RULE)
    assert clock.slept == sorted(clock.slept)
    assert clock.slept[0] <= 0.1
    assert clock.slept[-1] == 2.0


async def test_a_held_lock_does_not_make_the_probe_fail(
    maintenance: RuleMaintenance, tables: Tables, clock: Clock
) -> None:
    await maintenance.install(RULE)
    tables.errors = [LockHeldError("held")]
    clock.during_sleep = [lambda: tables.errors.clear() if maintenance.problem() else None]
    assert await maintenance.verify() is False


async def test_a_rule_that_disappears_after_the_write_is_no_success_and_is_retried_soon(
    maintenance: RuleMaintenance, tables: Tables, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    tables.undone = 3
    await maintenance.install(RULE)
    problem = "the redirect of 169.254.169.254: it was written, but then the chain is missing"
    assert str(maintenance.problem()).startswith(problem)
    assert not maintenance.in_force(RULE)
    assert "the rule is not in place yet" in caplog.text
    clock.during_sleep = [nothing_happens]
    await maintain(maintenance)
    assert clock.slept == [5.0, 60.0]
    assert maintenance.in_force(RULE)


async def test_missing_permissions_end_the_start(maintenance: RuleMaintenance, tables: Tables) -> None:
    tables.errors = [StartError("no rights")]
    with pytest.raises(StartError):
        await maintenance.install(RULE)


async def test_a_rule_that_is_removed_immediately_is_written_again(
    maintenance: RuleMaintenance, tables: Tables
) -> None:
    tables.undone = 2
    await maintenance.install(RULE)
    assert maintenance.in_force(RULE)


async def test_checks_and_removal_never_overlap(tables: Tables) -> None:
    inside = asyncio.Event()
    go_on = asyncio.Event()

    async def wait_for_the_lock(_: float) -> None:
        inside.set()
        await go_on.wait()

    maintenance = RuleMaintenance(tables, sleep=wait_for_the_lock)
    tables.errors = [LockHeldError("held")]
    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        tasks.create_task(maintenance.install(RULE))
        await inside.wait()
        removal = tasks.create_task(maintenance.remove(RULE))
        await asyncio.sleep(0)  # it runs, and must wait for the lock
        assert not removal.done()
        go_on.set()
    assert not tables.found
    assert not maintenance.in_force(RULE)


async def test_an_unreadable_table_does_not_prevent_the_repair_of_another_rule(
    maintenance: RuleMaintenance, tables: Tables, clock: Clock
) -> None:
    for rule in (TO.reject, RULE):
        await maintenance.install(rule)

    def broken() -> None:
        tables.broken = {TO.reject}
        tables.found.pop(RULE)

    clock.during_sleep = [broken]
    await maintain(maintenance)
    assert tables.found[RULE] == whole(RULE)
    assert (maintenance.repairs, maintenance.failures) == (1, 1)
    assert maintenance.problem() == "the reject of 169.254.169.254: this table cannot be read"
    assert maintenance.in_force(RULE)
    assert not maintenance.in_force(TO.reject)


async def test_connections_are_ended_after_the_installation_and_after_each_repair(
    maintenance: RuleMaintenance, tables: Tables, connections: Connections
) -> None:
    connections.tracked = 2
    await maintenance.install(RULE)
    assert maintenance.forgotten == 2
    await maintenance.verify()
    assert connections.asked == 1, "a rule that was always in place has no bypassing connections"
    tables.found.clear()
    connections.tracked = 1
    await maintenance.verify()
    assert maintenance.forgotten == 3


async def test_connections_are_ended_after_the_rule_is_installed_and_not_before(tables: Tables, clock: Clock) -> None:
    seen: list[bool] = []

    async def forget() -> int:
        seen.append(RULE in tables.found)
        return 0

    await RuleMaintenance(tables, forget=forget, sleep=clock.sleep).install(RULE)
    assert seen == [True]


@pytest.mark.parametrize("error", [RedirectError("no answer"), StartError("no program")])
async def test_connections_that_cannot_be_ended_block_nothing_and_are_retried_soon(
    maintenance: RuleMaintenance, connections: Connections, clock: Clock, error: Exception
) -> None:
    problems: list[str | None] = []

    def noted() -> None:
        problems.append(maintenance.problem())

    connections.errors = [error, error]
    await maintenance.install(RULE)
    assert maintenance.in_force(RULE)
    clock.during_sleep = [noted, noted, noted]
    await maintain(maintenance)
    assert problems == [str(error), str(error), None]
    assert clock.slept == [5.0, 5.0, 60.0, 60.0]
    assert connections.asked == 3
