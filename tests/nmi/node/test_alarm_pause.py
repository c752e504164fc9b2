"""How long the wait between two looks is when tables change. Excluded: how changes are known (test_alarm_sources)."""

import asyncio

from nmi.node.alarm import BURST, GAP_SECONDS, Alarm
from tests.virtual_time import in_virtual_time, now


@in_virtual_time
async def test_where_nothing_changes_it_is_the_interval() -> None:
    alarm = Alarm()
    begun = now()
    await alarm.pause(60)
    await alarm.pause(60)
    assert now() - begun == 120


@in_virtual_time
async def test_a_change_ends_it_at_once() -> None:
    alarm = Alarm()
    await alarm.pause(60)
    asyncio.get_running_loop().call_later(7, alarm.ring)
    begun = now()
    await alarm.pause(60)
    assert now() - begun == 7


@in_virtual_time
async def test_changes_without_end_cause_one_look_a_second_after_a_few_at_once() -> None:
    alarm = Alarm()

    async def change() -> None:
        while True:
            alarm.ring()
            await asyncio.sleep(0.01)

    changing = asyncio.create_task(change())
    begun = now()
    for _ in range(BURST):
        await alarm.pause(60)
    assert now() - begun < 0.1
    for _ in range(100):
        await alarm.pause(60)
    changing.cancel()
    assert 99 * GAP_SECONDS < now() - begun < 101 * GAP_SECONDS


@in_virtual_time
async def test_after_a_quiet_time_a_few_are_looked_at_at_once_again() -> None:
    alarm = Alarm()
    for _ in range(3):
        await alarm.pause(60)
        begun = now()
        for _ in range(BURST - 1):
            alarm.ring()
            await alarm.pause(60)
        assert now() == begun
        await asyncio.sleep(BURST * GAP_SECONDS)


@in_virtual_time
async def test_a_change_during_the_look_is_looked_at_again() -> None:
    alarm = Alarm()
    await alarm.pause(60)
    alarm.ring()  # while the owner looks, after the table was read
    begun = now()
    await alarm.pause(60)
    assert now() == begun
    await alarm.pause(60)
    assert now() - begun == 60, "and only once"


@in_virtual_time
async def test_an_interval_shorter_than_the_gap_stays_what_it_is() -> None:
    alarm = Alarm()
    for _ in range(BURST):
        alarm.ring()
        await alarm.pause(60)
    begun = now()
    for _ in range(3):
        await alarm.pause(0.5)
    assert now() - begun == 1.5
