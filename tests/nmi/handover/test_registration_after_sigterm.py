"""The wait of a stopping NMI for a successor that has started and is not registered yet."""

import asyncio
from pathlib import Path

from nmi.handover.predecessor import Predecessor
from tests.nmi.handover.ends import SECONDS, listening
from tests.support.waiting import until


async def waits(predecessor: Predecessor) -> bool:
    """Return whether *predecessor* still waits for a registration after a short time."""
    waiting = asyncio.create_task(predecessor.wait_for_registration(60))
    done, _ = await asyncio.wait([waiting], timeout=0.05)
    waiting.cancel()
    return not done


async def test_with_a_successor_there_is_no_wait(path: Path) -> None:
    async with listening(path) as ends, asyncio.timeout(SECONDS):
        successor = await ends.meet()
        await ends.predecessor.wait_for_registration(60)
        for _, each in await successor.take():
            each.close()
        await successor.confirm()
        await ends.predecessor.wait_for_registration(60)
        assert ends.predecessor.state() == "retired"
        await successor.pass_on()
        successor.close()
        await until(lambda: not ends.predecessor.registered)
        await ends.predecessor.wait_for_registration(60)


async def test_a_successor_that_registers_ends_the_wait(path: Path) -> None:
    async with listening(path) as ends:
        waiting = asyncio.create_task(ends.predecessor.wait_for_registration(60))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        successor = await ends.meet()
        async with asyncio.timeout(SECONDS):
            await waiting
        successor.close()


async def test_after_the_end_of_a_successor_the_predecessor_waits_for_the_next(path: Path) -> None:
    async with listening(path) as ends:
        (await ends.meet()).close()
        await ends.predecessor.settle(SECONDS)
        assert await waits(ends.predecessor)
        (await ends.retired()).close()
        await ends.until("pause", "retire", "resume")
        assert await waits(ends.predecessor)


async def test_without_a_successor_the_wait_is_limited(path: Path) -> None:
    async with listening(path) as ends, asyncio.timeout(SECONDS):
        begin = asyncio.get_running_loop().time()
        await ends.predecessor.wait_for_registration(0.2)
        assert asyncio.get_running_loop().time() - begin >= 0.19
