"""How the redirect is kept, with a driver that does as it is told. Excluded: real tables (test_redirect_repair)."""

import asyncio
import logging
from collections.abc import Callable

import pytest

from nmi.node.redirect import JUMP, Found, LockHeldError, Redirect, RedirectError, RedirectRule
from podidentity.exits import StartError

RULE = RedirectRule("169.254.169.254", 80, "127.0.0.1", 2579)
WHOLE = Found(RULE.rules, ((1, JUMP),))
NOTHING = Found(None, ())


class Table:
    """A nat table that somebody may break, or lock, or make unreadable."""

    def __init__(self) -> None:
        self.found = NOTHING
        self.errors: list[Exception] = []
        self.puts = 0
        self.undone = 0

    async def find(self) -> Found:
        self._fail()
        return self.found

    async def put(self, rule: RedirectRule) -> None:
        self._fail()
        self.puts += 1
        if self.undone:
            self.undone -= 1
        else:
            self.found = Found(rule.rules, ((1, JUMP),))

    async def clear(self) -> None:
        self._fail()
        self.found = NOTHING

    def _fail(self) -> None:
        if self.errors:
            raise self.errors.pop(0)


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
def table() -> Table:
    return Table()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def redirect(table: Table, clock: Clock) -> Redirect:
    return Redirect(RULE, table, sleep=clock.sleep)


async def maintain(redirect: Redirect) -> None:
    with pytest.raises(asyncio.CancelledError):
        await redirect.maintain(60)


async def test_it_is_not_ready_before_it_is_installed_and_after_it_is_removed(redirect: Redirect) -> None:
    assert redirect.problem() == "the redirect of 169.254.169.254: it has not been installed yet"
    assert not redirect.present()
    await redirect.install()
    assert redirect.problem() is None
    assert redirect.present()
    await redirect.remove()
    assert not redirect.present()


async def test_a_rule_that_is_there_already_is_not_written_again(redirect: Redirect, table: Table) -> None:
    table.found = WHOLE
    await redirect.install()
    assert table.puts == 0


async def test_it_is_looked_at_every_interval_and_repairs_are_counted(
    redirect: Redirect, table: Table, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> None:
        table.found = NOTHING

    await redirect.install()
    clock.meanwhile = [nothing_happens, broken, nothing_happens, broken]
    await maintain(redirect)
    assert clock.slept == [60.0] * 5
    assert redirect.repairs == 2
    assert table.found == WHOLE
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert [getattr(record, "reason", "") for record in warnings] == ["the chain is missing"] * 2


@pytest.mark.parametrize("error", [RedirectError("no answer"), StartError("no rights"), ZeroDivisionError("a bug")])
async def test_a_look_that_fails_is_told_to_the_probe_and_made_again_soon(
    redirect: Redirect, table: Table, clock: Clock, error: Exception
) -> None:
    problems: list[str | None] = []

    def fails() -> None:
        table.errors = [error]

    def noted() -> None:
        problems.append(redirect.problem())

    await redirect.install()
    clock.meanwhile = [fails, noted, noted]
    await maintain(redirect)
    assert clock.slept == [60.0, 5.0, 60.0, 60.0]
    assert problems[0] is not None
    assert problems[1] is None


async def test_a_held_lock_is_waited_for_ever_more_slowly_and_without_end(
    redirect: Redirect, table: Table, clock: Clock
) -> None:
    table.errors = [LockHeldError("held")] * 40
    clock.meanwhile = [nothing_happens] * 40
    await redirect.install()
    assert redirect.present()
    assert clock.slept == sorted(clock.slept)
    assert clock.slept[0] <= 0.1
    assert clock.slept[-1] == 2.0


async def test_a_held_lock_does_not_make_the_probe_fail(redirect: Redirect, table: Table, clock: Clock) -> None:
    await redirect.install()
    table.errors = [LockHeldError("held")]
    clock.meanwhile = [lambda: table.errors.clear() if redirect.problem() else None]
    assert await redirect.verify() is False


async def test_a_rule_that_does_not_stay_is_an_error_and_no_success(redirect: Redirect, table: Table) -> None:
    table.undone = 3
    with pytest.raises(RedirectError, match="another program keeps changing nat"):
        await redirect.install()
    assert redirect.problem() == "the redirect of 169.254.169.254: the chain is missing"


async def test_a_rule_that_is_undone_at_once_is_written_once_more(redirect: Redirect, table: Table) -> None:
    table.undone = 2
    await redirect.install()
    assert redirect.present()


async def test_looking_and_removing_never_overlap(table: Table) -> None:
    inside = asyncio.Event()
    go_on = asyncio.Event()

    async def wait_for_the_lock(_: float) -> None:
        inside.set()
        await go_on.wait()

    redirect = Redirect(RULE, table, sleep=wait_for_the_lock)
    table.errors = [LockHeldError("held")]
    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        tasks.create_task(redirect.install())
        await inside.wait()
        removal = tasks.create_task(redirect.remove())
        await asyncio.sleep(0)  # it runs, and must wait for its turn
        assert not removal.done()
        go_on.set()
    assert table.found == NOTHING
    assert not redirect.present()
