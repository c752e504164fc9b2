"""How rules are kept, with a driver that does as it is told. Excluded: real tables (test_redirect_repair)."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace

import pytest

from nmi.node.rules import Found, LockHeldError, RedirectError, Redirection, TopRule
from nmi.node.upkeep import Upkeep
from podidentity.exits import StartError

TO = Redirection("169.254.169.254", 80, "127.0.0.1", 2579)
RULE = TO.redirect
NOTHING = Found(())


def whole(rule: TopRule) -> Found:
    return Found(((1, rule.text),), rule.rules or None)


class Tables:
    """The node's tables, which somebody may break, or lock, or make unreadable."""

    def __init__(self) -> None:
        self.found: dict[TopRule, Found] = {}
        self.errors: list[Exception] = []
        self.broken: set[TopRule] = set()
        self.puts = 0
        self.undone = 0

    async def find(self, rule: TopRule) -> Found:
        self._fail(rule)
        return self.found.get(rule, NOTHING)

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
    """What is tracked between pods and the real IMDS; forgetting it may fail."""

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
    """Sleeps that end at once and are remembered; after each, what happens in the meantime."""

    def __init__(self) -> None:
        self.slept: list[float] = []
        self.meanwhile: list[Callable[[], None]] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        if not self.meanwhile:
            raise asyncio.CancelledError
        self.meanwhile.pop(0)()


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
def upkeep(tables: Tables, connections: Connections, clock: Clock) -> Upkeep:
    return Upkeep(tables, forget=connections.forget, sleep=clock.sleep)


async def maintain(upkeep: Upkeep) -> None:
    with pytest.raises(asyncio.CancelledError):
        await upkeep.maintain(60)


async def test_it_is_not_ready_before_it_is_installed_and_after_it_is_removed(upkeep: Upkeep) -> None:
    assert not upkeep.in_force(RULE)
    await upkeep.install(RULE)
    assert upkeep.problem() is None
    assert upkeep.in_force(RULE)
    await upkeep.remove(RULE)
    assert not upkeep.in_force(RULE)
    assert upkeep.problem() == "the redirect of 169.254.169.254: it has been removed"


async def test_a_rule_that_is_there_already_is_not_written_again(upkeep: Upkeep, tables: Tables) -> None:
    tables.found[RULE] = whole(RULE)
    await upkeep.install(RULE)
    assert tables.puts == 0


async def test_it_is_looked_at_every_interval_and_repairs_are_counted(
    upkeep: Upkeep, tables: Tables, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> None:
        tables.found.clear()

    await upkeep.install(RULE)
    clock.meanwhile = [nothing_happens, broken, nothing_happens, broken]
    await maintain(upkeep)
    assert clock.slept == [60.0] * 5
    assert upkeep.repairs == 2
    assert tables.found[RULE] == whole(RULE)
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert [getattr(record, "reason", "") for record in warnings] == [
        "the redirect of 169.254.169.254: the chain is missing"
    ] * 2


@pytest.mark.parametrize("error", [RedirectError("no answer"), StartError("no rights"), ZeroDivisionError("a bug")])
async def test_a_look_that_fails_is_told_to_the_probe_and_made_again_soon(
    upkeep: Upkeep, tables: Tables, clock: Clock, error: Exception
) -> None:
    problems: list[str | None] = []

    def fails() -> None:
        tables.errors = [error]

    def noted() -> None:
        problems.append(upkeep.problem())

    await upkeep.install(RULE)
    clock.meanwhile = [fails, noted, noted]
    await maintain(upkeep)
    assert clock.slept == [60.0, 5.0, 60.0, 60.0]
    assert problems[0] is not None
    assert problems[1] is None
    assert upkeep.failures == 1


async def test_a_held_lock_is_waited_for_ever_more_slowly_and_without_end(
    upkeep: Upkeep, tables: Tables, clock: Clock
) -> None:
    tables.errors = [LockHeldError("held")] * 40
    clock.meanwhile = [nothing_happens] * 40
    await upkeep.install(RULE)
    assert upkeep.in_force(RULE)
    assert clock.slept == sorted(clock.slept)
    assert clock.slept[0] <= 0.1
    assert clock.slept[-1] == 2.0


async def test_a_held_lock_does_not_make_the_probe_fail(upkeep: Upkeep, tables: Tables, clock: Clock) -> None:
    await upkeep.install(RULE)
    tables.errors = [LockHeldError("held")]
    clock.meanwhile = [lambda: tables.errors.clear() if upkeep.problem() else None]
    assert await upkeep.verify() is False


async def test_a_rule_that_does_not_stay_is_no_success_and_is_tried_again_soon(
    upkeep: Upkeep, tables: Tables, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    tables.undone = 3
    await upkeep.install(RULE)
    problem = "the redirect of 169.254.169.254: it was written, but then the chain is missing"
    assert str(upkeep.problem()).startswith(problem)
    assert not upkeep.in_force(RULE)
    assert "the rule is not in place yet" in caplog.text
    clock.meanwhile = [nothing_happens]
    await maintain(upkeep)
    assert clock.slept == [5.0, 60.0]
    assert upkeep.in_force(RULE)


async def test_want_of_rights_ends_the_start(upkeep: Upkeep, tables: Tables) -> None:
    tables.errors = [StartError("no rights")]
    with pytest.raises(StartError):
        await upkeep.install(RULE)


async def test_a_rule_that_is_undone_at_once_is_written_once_more(upkeep: Upkeep, tables: Tables) -> None:
    tables.undone = 2
    await upkeep.install(RULE)
    assert upkeep.in_force(RULE)


async def test_looking_and_removing_never_overlap(tables: Tables) -> None:
    inside = asyncio.Event()
    go_on = asyncio.Event()

    async def wait_for_the_lock(_: float) -> None:
        inside.set()
        await go_on.wait()

    upkeep = Upkeep(tables, sleep=wait_for_the_lock)
    tables.errors = [LockHeldError("held")]
    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        tasks.create_task(upkeep.install(RULE))
        await inside.wait()
        removal = tasks.create_task(upkeep.remove(RULE))
        await asyncio.sleep(0)  # it runs, and must wait for its turn
        assert not removal.done()
        go_on.set()
    assert not tables.found
    assert not upkeep.in_force(RULE)


async def test_a_table_that_cannot_be_read_keeps_no_other_rule_from_its_repair(
    upkeep: Upkeep, tables: Tables, clock: Clock
) -> None:
    for rule in (TO.reject, RULE):
        await upkeep.install(rule)

    def broken() -> None:
        tables.broken = {TO.reject}
        tables.found.pop(RULE)

    clock.meanwhile = [broken]
    await maintain(upkeep)
    assert tables.found[RULE] == whole(RULE)
    assert (upkeep.repairs, upkeep.failures) == (1, 1)
    assert upkeep.problem() == "the reject of 169.254.169.254: this table cannot be read"
    assert upkeep.in_force(RULE)
    assert not upkeep.in_force(TO.reject)


async def test_connections_are_ended_after_the_installation_and_after_each_repair(
    upkeep: Upkeep, tables: Tables, connections: Connections
) -> None:
    connections.tracked = 2
    await upkeep.install(RULE)
    assert upkeep.forgotten == 2
    await upkeep.verify()
    assert connections.asked == 1, "a rule that was there all the time let nobody past"
    tables.found.clear()
    connections.tracked = 1
    await upkeep.verify()
    assert upkeep.forgotten == 3


async def test_connections_are_ended_after_the_rule_and_not_before(tables: Tables, clock: Clock) -> None:
    seen: list[bool] = []

    async def forget() -> int:
        seen.append(RULE in tables.found)
        return 0

    await Upkeep(tables, forget=forget, sleep=clock.sleep).install(RULE)
    assert seen == [True]


@pytest.mark.parametrize("error", [RedirectError("no answer"), StartError("no program")])
async def test_connections_that_cannot_be_ended_stop_nothing_and_are_tried_again_soon(
    upkeep: Upkeep, connections: Connections, clock: Clock, error: Exception
) -> None:
    problems: list[str | None] = []

    def noted() -> None:
        problems.append(upkeep.problem())

    connections.errors = [error, error]
    await upkeep.install(RULE)
    assert upkeep.in_force(RULE)
    clock.meanwhile = [noted, noted, noted]
    await maintain(upkeep)
    assert problems == [str(error), str(error), None]
    assert clock.slept == [5.0, 5.0, 60.0, 60.0]
    assert connections.asked == 3
