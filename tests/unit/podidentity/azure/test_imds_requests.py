"""Requests to IMDS, their retries, decoding of the responses, and that no token leaks by another path."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest

from podidentity.azure.errors import AzureError, CameBack, NotSent, NotYet, Paused, Refused, Throttled, Unreachable
from podidentity.azure.imds import RESPONSE_MAX, ImdsSource
from podidentity.azure.imds_responses import GUEST_PROXY
from tests.support.nmi.imds import HANG, SECRET, Imds, Reply, error_body, running_imds
from tests.support.virtual_time import now

CLIENT_ID = "C11E0000-0000-0000-0000-00000000000a"
GOOD: dict[str, Any] = {"access_token": "a.b.c", "expires_on": "1700003600", "expires_in": "3600", "resource": "r"}


@pytest.fixture
async def imds() -> AsyncIterator[Imds]:
    async with running_imds() as made:
        yield made


@asynccontextmanager
async def source_of(imds: Imds, **options: Any) -> AsyncIterator[ImdsSource]:
    """Yield a source with a session of its own."""
    async with imds.session() as session:
        yield ImdsSource(session, imds.url, clock=now, wall_clock=imds.wall, random=lambda: 0.5, **options)


@pytest.fixture
async def source(imds: Imds) -> AsyncIterator[ImdsSource]:
    async with source_of(imds) as made:
        yield made


async def ask(imds: Imds, **named: Any) -> Any:
    """Return the token, or raise the error of the first attempt."""
    async with source_of(imds, retry_delays=()) as source:
        return await source.token("https://vault.azure.net", within=10.0, **named)


async def test_the_request_contains_the_identity_and_the_header(imds: Imds) -> None:
    token = await ask(imds, client_id=CLIENT_ID, xms_cc="cp1", bypass_cache=True)
    [call] = imds.calls
    assert call.query == {
        "api-version": "2018-02-01",
        "resource": "https://vault.azure.net",
        "client_id": CLIENT_ID,
        "xms_cc": "cp1",
        "bypass_cache": "true",
    }
    assert call.headers["Metadata"] == "true"
    assert (token.expires_on, token.expires_in, token.token_type) == (1_700_086_400, 86400, "Bearer")
    assert token.client_id == CLIENT_ID


async def test_hostile_text_is_escaped_in_its_parameter(imds: Imds) -> None:
    await ask(imds, client_id="a&client_id=b#c+d%26")
    [call] = imds.calls
    assert call.query["client_id"] == "a&client_id=b#c+d%26"


async def test_two_identities_cannot_be_selected(imds: Imds) -> None:
    with pytest.raises(ValueError, match="one of"):
        await ask(imds, client_id="a", resource_id="b")
    assert imds.calls == []


@pytest.mark.parametrize(
    "changes",
    [{}, {"expires_on": 1700003600, "expires_in": 3600, "not_before": 1}, {"expires_on": None}, {"expires_in": ""}],
    ids=["strings", "numbers", "no-expires-on", "empty-expires-in"],
)
async def test_times_may_be_strings_or_numbers(imds: Imds, changes: dict[str, Any]) -> None:
    imds.script = [Reply(body=json.dumps({**GOOD, **changes}).encode())]
    token = await ask(imds)
    assert (token.expires_on, token.expires_in) == (1_700_003_600, 3600)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"<html>", id="html"),
        pytest.param(b"[]", id="array"),
        pytest.param(json.dumps({**GOOD, "access_token": ""}).encode(), id="no-token"),
        pytest.param(json.dumps({**GOOD, "access_token": "a\r\nb"}).encode(), id="line-break-in-token"),
        pytest.param(json.dumps({**GOOD, "access_token": "\u00e9"}).encode(), id="token-not-ascii"),
        pytest.param(json.dumps({**GOOD, "access_token": None}).encode(), id="null-token"),
        pytest.param(json.dumps({**GOOD, "expires_on": None, "expires_in": None}).encode(), id="no-expiry"),
        pytest.param(json.dumps({**GOOD, "expires_on": "-1"}).encode(), id="negative"),
        pytest.param(json.dumps({**GOOD, "expires_on": "\u0661"}).encode(), id="arabic-digit"),
        pytest.param(json.dumps({**GOOD, "expires_on": "9" * 13}).encode(), id="13-digits"),
        pytest.param(json.dumps({**GOOD, "expires_on": 1.5}).encode(), id="fraction"),
        pytest.param(b"\xff" + json.dumps(GOOD).encode(), id="not-utf8"),
        pytest.param(json.dumps(GOOD).encode()[:-1] + b', "x": ' + b"[" * 50_000, id="too-deep"),
    ],
)
async def test_an_invalid_token_response_is_rejected(imds: Imds, body: bytes) -> None:
    imds.script = [Reply(body=body)]
    with pytest.raises(AzureError) as raised:
        await ask(imds)
    assert raised.value.code == "bad_answer"


async def test_an_endless_response_is_cut_off(imds: Imds) -> None:
    imds.script = [Reply(body=b" " * (RESPONSE_MAX + 1))]
    with pytest.raises(AzureError) as raised:
        await ask(imds)
    assert raised.value.code == "answer_too_large"
    imds.script = [Reply(body=json.dumps(GOOD).encode().ljust(RESPONSE_MAX))]
    assert (await ask(imds)).expires_in == 3600


STATUSES: dict[type[AzureError], tuple[int, ...]] = {
    Refused: (400, 401, 403, 405),
    NotYet: (404, 410),
    Throttled: (429,),
    CameBack: (508,),
    AzureError: (302, 408, 500, 503),
}


@pytest.mark.parametrize(("kind", "status"), [(kind, status) for kind, of in STATUSES.items() for status in of])
async def test_each_status_has_its_error_class(imds: Imds, kind: type[AzureError], status: int) -> None:
    headers = {"Retry-After": "11", "x-ms-request-id": "0a-1b", "Location": "http://127.0.0.1:1/"}
    imds.script = [Reply(status, error_body("some_code", "Some sentence"), headers)]
    with pytest.raises(AzureError) as raised:
        await ask(imds)
    assert len(imds.calls) == 1
    error = raised.value
    assert type(error) is kind
    assert (error.status, error.code, error.message) == (status, "some_code", "Some sentence")
    assert (error.retry_after, error.correlation_id) == (11.0, "0a-1b")


@pytest.mark.parametrize("selector", ["client_id", "object_id"])
@pytest.mark.parametrize(("requested", "shown"), [(CLIENT_ID, "C11E…000a"), (r"c\11e-0000-0000\q", r"c\11…00\q")])
async def test_an_error_that_contains_the_requested_id_is_redacted(
    imds: Imds, selector: str, requested: str, shown: str
) -> None:
    sentence = f"AADSTS700016: no application '{requested.lower()}'"
    imds.script = [Reply(400, error_body("unauthorized_client", sentence))]
    with pytest.raises(Refused) as raised:
        await ask(imds, **{selector: requested})
    assert raised.value.message == f"AADSTS700016: no application '{shown}'"


@pytest.mark.parametrize("body", [b"<html>nope</html>", b'{"error":' + b"[" * 50_000, b'{"x":' * 10_000])
async def test_an_error_that_is_not_json_is_still_classified(imds: Imds, body: bytes) -> None:
    imds.script = [Reply(400, body)]
    with pytest.raises(Refused) as raised:
        await ask(imds)
    assert (raised.value.code, raised.value.message) == ("", "status 400")


@pytest.mark.parametrize("status", [403, 405, 421])
async def test_a_refusal_without_a_body_is_the_guest_proxy_agents(imds: Imds, status: int) -> None:
    imds.script = [Reply(status, b""), Reply(status, b"{}"), Reply(400, b"")]
    codes = []
    for _ in range(3):
        with pytest.raises(Refused) as raised:
            await ask(imds)
        codes.append(raised.value.code)
    assert codes == [GUEST_PROXY, "", ""]


async def test_a_missing_response_is_unreachable() -> None:
    async with running_imds() as imds:
        pass
    with pytest.raises(Unreachable):
        await ask(imds)


async def test_an_attempt_ends_at_the_callers_time_limit(imds: Imds) -> None:
    imds.script = [HANG]
    async with source_of(imds) as source:
        with pytest.raises(Unreachable) as raised:
            await source.token("r", within=0.05)
    assert raised.value.code == "timeout"


async def test_an_attempt_has_its_own_time_limit(imds: Imds) -> None:
    imds.script = [HANG]
    async with source_of(imds, attempt_seconds=1.0) as source:
        assert (await source.token("r", within=30.0)).resource == "r"
    assert len(imds.calls) == 2


async def test_no_repr_and_no_error_contains_a_token(imds: Imds) -> None:
    token = await ask(imds)
    assert token.access_token.startswith(SECRET)
    assert SECRET not in repr(token)
    leak = f"cannot use {SECRET}.{'x' * 300}"
    imds.script = [
        Reply(400, error_body(SECRET + "x" * 60, leak), {"x-ms-request-id": "a\tb"}),
    ]
    with pytest.raises(Refused) as raised:
        await ask(imds)
    error = raised.value
    assert (error.code, error.correlation_id) == ("", "")
    assert SECRET not in str(error)
    assert len(error.message) <= 256


def after(seconds: int, status: int = 429) -> Reply:
    return Reply(status, b"{}", {"Retry-After": str(seconds)})


UPDATING, ENDED, BUSY = Reply(410, b"{}"), Reply(503, b"{}"), Reply(500, b"{}")
NOT_FOUND = Reply(400, error_body("invalid_request", "Identity not found"))
OUTLASTED = [2.0, 4.0, 8.0, 10.0, 10.0, 10.0, 10.0, 10.0, 6.0]
"""Pauses for the seventy seconds of an update."""
LAG = [0.5, 1.0, 1.0, 1.5, 2.0, 2.0, 2.0]
Options = dict[str, Any]
RETRIES: dict[str, tuple[list[Reply], Options, type[AzureError] | None, list[float]]] = {
    **{f"{status}": ([Reply(status, b"{}")], {}, None, [2.0]) for status in (404, 410, 429, 500, 503, 504)},
    **{f"{status}": ([Reply(status, b"{}")], {}, Refused, []) for status in (400, 401, 403)},
    "five attempts at 0, 2, 6, 14 and 30 s": ([Reply(404, b"{}")] * 6, {}, NotYet, [2.0, 4.0, 8.0, 16.0]),
    "an update, with a last attempt after it": ([UPDATING] * 9, {"within": 45.0}, None, OUTLASTED),
    "a longer update": ([UPDATING] * 20, {"within": 45.0}, NotYet, OUTLASTED),
    "an update after a failure": ([ENDED] * 2 + [UPDATING] * 20, {"within": 45.0}, NotYet, [2.0, 4.0, *OUTLASTED]),
    "another failure after an update": ([UPDATING] * 7 + [ENDED] * 3, {"within": 45.0}, AzureError, OUTLASTED[:7]),
    "Retry-After beyond the caller's time": ([after(11, 503)], {}, AzureError, []),
    "Retry-After within it": ([after(10, 503)], {}, None, [10.0]),
    "Retry-After longer and shorter than the usual pause": ([after(9), after(1)], {}, None, [9.0, 4.0]),
    "no time for another attempt": ([BUSY] * 5, {"within": 10.0}, AzureError, [2.0, 4.0]),
    "no time for the Retry-After": ([after(60)], {"within": 45.0}, Throttled, []),
    "an identity that IMDS learns": ([NOT_FOUND] * 3, {"lag_seconds": 10.0}, None, [0.5, 1.0, 1.0]),
    "one that it never learns": ([NOT_FOUND] * 20, {"lag_seconds": 10.0}, Refused, LAG),
    "an unknown one without lag": ([NOT_FOUND], {}, Refused, []),
}


@pytest.mark.parametrize("case", RETRIES)
async def test_each_failure_has_its_retries(imds: Imds, source: ImdsSource, case: str) -> None:
    replies, options, error, expected = RETRIES[case]
    imds.script = list(replies)
    if error is None:
        assert (await source.token("r", client_id="c", **options)).resource == "r"
    else:
        with pytest.raises(error) as raised:
            await source.token("r", client_id="c", **options)
        last = replies[len(imds.calls) - 1]
        retry_after = last.headers.get("Retry-After")
        assert type(raised.value) is error
        assert raised.value.status == last.status
        assert raised.value.retry_after == (None if retry_after is None else float(retry_after))
    assert [after.begun - before.begun for before, after in pairwise(imds.calls)] == pytest.approx(expected)


async def test_a_request_that_came_back_is_not_retried(imds: Imds, source: ImdsSource) -> None:
    imds.script = [Reply(508, error_body("loop_detected", "no"))] * 2
    with pytest.raises(CameBack):
        await source.token("r")
    with pytest.raises(CameBack):
        await source.raw("r", within=5.0)
    assert len(imds.calls) == 2


@pytest.mark.parametrize("error", [NotSent("left alone", retry_after=1.0), Paused("a pause", retry_after=1.0)])
async def test_an_unsent_call_is_not_retried(imds: Imds, source: ImdsSource, error: AzureError) -> None:
    class Permit:
        async def __aenter__(self) -> None:
            raise error

        async def __aexit__(self, *_how: object) -> None:
            raise AssertionError("left without having been entered")

    with pytest.raises(type(error)):
        await source.token("r", permit=Permit)
    assert imds.calls == []


async def test_each_attempt_is_observed_with_whether_it_named_an_identity() -> None:
    seen: list[tuple[bool, str]] = []

    def observe(named: bool, seconds: float, error: AzureError | None) -> None:
        assert seconds >= 0.0
        seen.append((named, type(error).__name__))

    async with running_imds() as imds, source_of(imds, observe=observe) as source:
        imds.script = [Reply(503, b"{}")]
        await source.token("r", client_id="c")
        await source.raw("r", within=5.0)
    assert seen == [(True, "AzureError"), (True, "NoneType"), (False, "NoneType")]


async def test_every_attempt_takes_a_permit_and_reports_its_outcome(imds: Imds, source: ImdsSource) -> None:
    ended: list[str] = []

    @asynccontextmanager
    async def permit() -> AsyncIterator[None]:
        try:
            yield
        except AzureError as error:
            ended.append(type(error).__name__)
            raise
        ended.append("ok")

    imds.script = [Reply(429, b"{}"), Reply(503, b"{}")]
    await source.token("r", permit=permit)
    assert ended == ["Throttled", "AzureError", "ok"]
