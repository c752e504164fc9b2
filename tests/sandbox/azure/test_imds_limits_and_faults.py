"""Temporary errors of IMDS: Azure's limits, its lag behind ARM, and faults that a test adds."""

import asyncio
import itertools
import math

from podidentity_sandbox.serving import ResponseFault
from tests.sandbox.azure.conftest import Azure


async def test_more_than_twenty_requests_in_a_second_are_throttled(azure: Azure) -> None:
    azure.vm.attach(azure.one)
    statuses = [(await azure.ask_imds())[0] for _ in range(21)]
    assert statuses == [200] * 20 + [429]
    azure.clock.now += 1.0
    assert (await azure.ask_imds())[0] == 200


async def test_more_than_five_concurrent_requests_are_throttled(azure: Azure) -> None:
    azure.vm.attach(azure.one)
    azure.imds.faults.add(ResponseFault(hold=True, times=math.inf))
    asked = [asyncio.create_task(azure.ask_imds()) for _ in range(7)]
    first = [(await each)[0] for each in itertools.islice(asyncio.as_completed(asked), 2)]
    azure.imds.faults.clear()  # the other five wait until now
    answers = await asyncio.gather(*asked)
    assert first == [429] * 2
    assert sorted(status for status, _, _ in answers) == [200] * 5 + [429] * 2
    assert (await azure.ask_imds())[0] == 200


async def test_without_limits_nothing_is_throttled(azure: Azure) -> None:
    azure.vm.attach(azure.one)
    azure.imds.limited = False
    assert {(await azure.ask_imds())[0] for _ in range(25)} == {200}


async def test_an_identity_is_visible_only_after_the_lag(azure: Azure) -> None:
    azure.arm.lag_seconds = 5.0
    azure.vm.attach(azure.one)
    assert (await azure.ask_imds())[0] == 400
    azure.clock.now += 5.0
    assert (await azure.ask_imds())[0] == 200


async def test_a_fault_occurs_the_requested_number_of_times_and_calls_are_counted(azure: Azure) -> None:
    azure.vm.attach(azure.one)
    azure.imds.faults.add(ResponseFault(status=503, document={"error": "x"}, headers={"Retry-After": "7"}, times=2))
    status, _, response = await azure.ask_imds()
    assert (status, response.headers["Retry-After"]) == (503, "7")
    await azure.ask_imds()
    assert (await azure.ask_imds())[0] == 200
    assert [call.status for call in azure.imds.token_calls] == [503, 503, 200]
