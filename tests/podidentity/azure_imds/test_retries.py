"""Retries of a call to IMDS: when, after which pause, and how many. Excluded: the meaning of each answer."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from podidentity.azure.errors import AzureError, CameBack, NotSent, NotYet, Paused, Refused, Throttled
from tests.nmi.imds import Pauses, Reply, error_body, running_imds, source_of

NOT_FOUND = error_body("invalid_request", "Identity not found")


@pytest.mark.parametrize("status", [404, 410, 429, 500, 503, 504])
async def test_a_transient_failure_is_retried(status: int) -> None:
    pauses = Pauses()
    async with running_imds() as imds, source_of(imds, pauses) as source:
        imds.script = [Reply(status, b"{}")]
        assert (await source.token("r")).resource == "r"
    assert pauses.taken == [2.0]


@pytest.mark.parametrize("status", [400, 401, 403])
async def test_a_refusal_is_not_retried(status: int) -> None:
    async with running_imds() as imds, source_of(imds, Pauses()) as source:
        imds.script = [Reply(status, error_body("invalid_resource", "no such resource"))]
        with pytest.raises(Refused):
            await source.token("r")
        assert len(imds.calls) == 1


async def test_a_request_that_came_back_is_not_retried() -> None:
    async with running_imds() as imds, source_of(imds, Pauses()) as source:
        imds.script = [Reply(508, error_body("loop_detected", "no"))] * 2
        with pytest.raises(CameBack):
            await source.token("r")
        with pytest.raises(CameBack):
            await source.raw("r", within=5.0)
        assert len(imds.calls) == 2


async def test_five_attempts_at_0_2_6_14_and_30_seconds() -> None:
    pauses = Pauses()
    async with running_imds() as imds, source_of(imds, pauses) as source:
        imds.script = [Reply(404, b"{}")] * 6
        with pytest.raises(NotYet):
            await source.token("r")
        assert len(imds.calls) == 5
    assert pauses.taken == [2.0, 4.0, 8.0, 16.0]


async def test_an_update_is_outlasted_for_seventy_seconds_with_a_last_attempt_after_them() -> None:
    pauses = Pauses()
    async with running_imds() as imds, source_of(imds, pauses) as source:
        imds.script = [Reply(410, b"{}")] * 9
        assert (await source.token("r", within=45.0)).resource == "r"
        assert pauses.taken == pytest.approx([2.0, 4.0, 8.0, 10.0, 10.0, 10.0, 10.0, 10.0, 6.0])
        imds.script = [Reply(410, b"{}")] * 20
        with pytest.raises(NotYet):
            await source.token("r", within=45.0)
        assert len(imds.calls) == 20


async def test_the_seventy_seconds_start_with_the_first_410() -> None:
    pauses = Pauses()
    async with running_imds() as imds, source_of(imds, pauses) as source:
        imds.script = [Reply(503, b"{}")] * 2 + [Reply(410, b"{}")] * 20
        with pytest.raises(NotYet):
            await source.token("r", within=45.0)
    assert sum(pauses.taken) == pytest.approx(76.0)


async def test_a_failure_of_another_kind_gets_no_additional_time_from_an_update() -> None:
    pauses = Pauses()
    async with running_imds() as imds, source_of(imds, pauses) as source:
        imds.script = [Reply(410, b"{}")] * 7 + [Reply(503, b"{}")] * 3
        with pytest.raises(AzureError) as raised:
            await source.token("r", within=45.0)
        assert len(imds.calls) == 8
    assert raised.value.status == 503


async def test_a_retry_after_beyond_the_callers_time_is_returned_instead_of_waited_for() -> None:
    pauses = Pauses()
    async with running_imds() as imds, source_of(imds, pauses) as source:
        imds.script = [Reply(503, b"{}", {"Retry-After": "11"})]
        with pytest.raises(AzureError) as raised:
            await source.token("r")
        assert (raised.value.retry_after, len(imds.calls)) == (11.0, 1)
        imds.script = [Reply(503, b"{}", {"Retry-After": "10"})]
        await source.token("r")
    assert pauses.taken == [10.0]


@pytest.mark.parametrize("error", [NotSent("left alone", retry_after=1.0), Paused("a pause", retry_after=1.0)])
async def test_an_unsent_call_is_not_retried(error: AzureError) -> None:
    class Permit:
        async def __aenter__(self) -> None:
            raise error

        async def __aexit__(self, *_how: object) -> None:
            raise AssertionError("left without having been entered")

    async with running_imds() as imds, source_of(imds, Pauses()) as source:
        with pytest.raises(type(error)):
            await source.token("r", permit=Permit)
        assert imds.calls == []


async def test_each_attempt_is_observed_with_whether_it_named_an_identity() -> None:
    seen: list[tuple[bool, str]] = []

    def observe(named: bool, seconds: float, error: AzureError | None) -> None:
        assert seconds >= 0.0
        seen.append((named, type(error).__name__))

    async with running_imds() as imds, source_of(imds, Pauses(), observe=observe) as source:
        imds.script = [Reply(503, b"{}")]
        await source.token("r", client_id="c")
        await source.raw("r", within=5.0)
    assert seen == [(True, "AzureError"), (True, "NoneType"), (False, "NoneType")]


async def test_a_longer_retry_after_is_obeyed() -> None:
    pauses = Pauses()
    async with running_imds() as imds, source_of(imds, pauses) as source:
        imds.script = [Reply(429, b"{}", {"Retry-After": "9"}), Reply(429, b"{}", {"Retry-After": "1"})]
        await source.token("r")
    assert pauses.taken == [9.0, 4.0]


async def test_no_pause_exceeds_the_callers_time() -> None:
    pauses = Pauses()
    async with running_imds() as imds, source_of(imds, pauses) as source:
        imds.script = [Reply(500, b"{}")] * 5
        with pytest.raises(AzureError):
            await source.token("r", within=10.0)
        assert len(imds.calls) == 3
        imds.script = [Reply(429, b"{}", {"Retry-After": "60"})]
        with pytest.raises(Throttled) as raised:
            await source.token("r", within=45.0)
    assert pauses.taken == [2.0, 4.0]
    assert raised.value.retry_after == 60.0


async def test_an_identity_unknown_to_imds_is_requested_again() -> None:
    pauses = Pauses()
    async with running_imds() as imds, source_of(imds, pauses) as source:
        imds.script = [Reply(400, NOT_FOUND)] * 3
        await source.token("r", client_id="c", lag_seconds=10.0)
    assert pauses.taken == [0.5, 1.0, 1.0]


async def test_the_lag_is_limited_to_ten_seconds() -> None:
    pauses = Pauses()
    async with running_imds() as imds, source_of(imds, pauses) as source:
        imds.script = [Reply(400, NOT_FOUND)] * 20
        with pytest.raises(Refused):
            await source.token("r", client_id="c", lag_seconds=10.0)
    assert sum(pauses.taken) <= 10.0
    assert sum(pauses.taken) > 7.0


async def test_without_lag_not_found_is_final() -> None:
    async with running_imds() as imds, source_of(imds, Pauses()) as source:
        imds.script = [Reply(400, NOT_FOUND)]
        with pytest.raises(Refused):
            await source.token("r", client_id="c")
        assert len(imds.calls) == 1


async def test_every_attempt_takes_a_permit_and_reports_its_outcome() -> None:
    ended: list[str] = []

    @asynccontextmanager
    async def permit() -> AsyncIterator[None]:
        try:
            yield
        except AzureError as error:
            ended.append(type(error).__name__)
            raise
        ended.append("ok")

    async with running_imds() as imds, source_of(imds, Pauses()) as source:
        imds.script = [Reply(429, b"{}"), Reply(503, b"{}")]
        await source.token("r", permit=permit)
    assert ended == ["Throttled", "AzureError", "ok"]
