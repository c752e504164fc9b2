"""The load generator is a process: it reports when counting starts, ends with its context, and runs on a given core."""

import asyncio
import os
import time

import pytest

from benchmarks.load import generator
from benchmarks.load.generator import GeneratorError
from tests.benchmarks.load_server import OK, always, group, serving
from tests.support.waiting import until

pytestmark = pytest.mark.measures


async def test_the_generator_reports_when_counting_starts() -> None:
    begin = time.monotonic()
    async with serving(always(OK)) as server:
        load = await asyncio.to_thread(generator.start, "127.0.0.1", server.port, [group()], 0.3, warm_seconds=0.7)
        with load:
            await asyncio.to_thread(load.counting)
            after, before = time.monotonic() - begin, len(server.heads)
            run = await asyncio.to_thread(load.wait)
    assert after >= 0.7
    assert before > 0
    assert run.groups["one"].requests <= len(server.heads) - 4
    assert run.seconds >= 0.3


async def test_leaving_the_context_ends_the_generator() -> None:
    async with serving(always(OK)) as server:
        with await asyncio.to_thread(generator.start, "127.0.0.1", server.port, [group()], 50) as load:
            await until(lambda: server.heads)
        assert load._process.returncode is not None


async def test_a_killed_generator_has_no_result() -> None:
    async with serving(always(OK)) as server:
        with await asyncio.to_thread(generator.start, "127.0.0.1", server.port, [group()], 50, warm_seconds=0) as load:
            await asyncio.to_thread(load.counting)
            load._process.kill()
            with pytest.raises(GeneratorError, match="status -9"):
                await asyncio.to_thread(load.wait)


async def test_the_generator_runs_on_the_given_core() -> None:
    core = max(os.sched_getaffinity(0))
    async with serving(always(OK)) as server:
        starting = asyncio.to_thread(
            generator.start, "127.0.0.1", server.port, [group()], 50, core=core, warm_seconds=0
        )
        with await starting as load:
            await asyncio.to_thread(load.counting)
            assert os.sched_getaffinity(load._process.pid) == {core}
