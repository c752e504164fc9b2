"""The pause between two reads of the tables while they change.

Excluded: the notification of a change (test_rule_changes_sources).
"""

import asyncio

from nmi.node.rule_changes import BURST, GAP_SECONDS, RuleChangeNotifier
from tests.support.virtual_time import now


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
