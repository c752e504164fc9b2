"""Requests to IMDS, decoding of the responses, and that no token leaks by another path.

Excluded: retries (`test_retries.py`).
"""

import json
from typing import Any

import pytest

from podidentity.azure.errors import AzureError, CameBack, NotYet, Refused, Throttled, Unreachable
from podidentity.azure.imds import ANSWER_MAX
from tests.nmi.imds import HANG, SECRET, Imds, Pauses, Reply, error_body, running_imds, source_of

CLIENT_ID = "C11E0000-0000-0000-0000-00000000000a"
GOOD: dict[str, Any] = {"access_token": "a.b.c", "expires_on": "1700003600", "expires_in": "3600", "resource": "r"}


async def ask(imds: Imds, **named: Any) -> Any:
    """Return the token, or raise the error of the first attempt."""
    async with source_of(imds, Pauses(), retry_delays=()) as source:
        return await source.token("https://vault.azure.net", within=10.0, **named)


async def test_the_request_contains_the_identity_and_the_header() -> None:
    async with running_imds() as imds:
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


async def test_hostile_text_is_escaped_in_its_parameter() -> None:
    async with running_imds() as imds:
        await ask(imds, client_id="a&client_id=b#c+d%26")
        [call] = imds.calls
    assert call.query["client_id"] == "a&client_id=b#c+d%26"


async def test_two_identities_cannot_be_selected() -> None:
    async with running_imds() as imds:
        with pytest.raises(ValueError, match="one of"):
            await ask(imds, client_id="a", resource_id="b")
        assert imds.calls == []


@pytest.mark.parametrize(
    ("changes", "expires_on", "expires_in"),
    [
        ({}, 1_700_003_600, 3600),
        ({"expires_on": 1700003600, "expires_in": 3600, "not_before": 1}, 1_700_003_600, 3600),
        ({"expires_on": None}, 1_700_003_600, 3600),
        ({"expires_in": ""}, 1_700_003_600, 3600),
    ],
    ids=["strings", "numbers", "no-expires-on", "empty-expires-in"],
)
async def test_times_may_be_strings_or_numbers(changes: dict[str, Any], expires_on: int, expires_in: int) -> None:
    async with running_imds() as imds:
        imds.script = [Reply(body=json.dumps({**GOOD, **changes}).encode())]
        token = await ask(imds)
    assert (token.expires_on, token.expires_in) == (expires_on, expires_in)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        json.dumps({**GOOD, "access_token": ""}).encode(),
        json.dumps({**GOOD, "access_token": "a\r\nb"}).encode(),
        json.dumps({**GOOD, "access_token": "\u00e9"}).encode(),
        json.dumps({**GOOD, "access_token": None}).encode(),
        json.dumps({**GOOD, "expires_on": None, "expires_in": None}).encode(),
        json.dumps({**GOOD, "expires_on": "-1"}).encode(),
        json.dumps({**GOOD, "expires_on": "\u0661"}).encode(),
        json.dumps({**GOOD, "expires_on": "9" * 13}).encode(),
        json.dumps({**GOOD, "expires_on": 1.5}).encode(),
        b"\xff" + json.dumps(GOOD).encode(),
        json.dumps(GOOD).encode()[:-1] + b', "x": ' + b"[" * 50_000,
    ],
    ids=[
        "empty",
        "html",
        "array",
        "no-token",
        "line-break-in-token",
        "token-not-ascii",
        "null-token",
        "no-expiry",
        "negative",
        "arabic-digit",
        "13-digits",
        "fraction",
        "not-utf8",
        "too-deep",
    ],
)
async def test_an_invalid_token_response_is_rejected(body: bytes) -> None:
    async with running_imds() as imds:
        imds.script = [Reply(body=body)]
        with pytest.raises(AzureError) as raised:
            await ask(imds)
    assert raised.value.code == "bad_answer"


async def test_an_endless_response_is_cut_off() -> None:
    async with running_imds() as imds:
        imds.script = [Reply(body=b" " * (ANSWER_MAX + 1))]
        with pytest.raises(AzureError) as raised:
            await ask(imds)
        assert raised.value.code == "answer_too_large"
        imds.script = [Reply(body=json.dumps(GOOD).encode().ljust(ANSWER_MAX))]
        assert (await ask(imds)).expires_in == 3600


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, Refused),
        (401, Refused),
        (403, Refused),
        (405, Refused),
        (404, NotYet),
        (410, NotYet),
        (408, AzureError),
        (429, Throttled),
        (500, AzureError),
        (503, AzureError),
        (508, CameBack),
        (302, AzureError),
    ],
)
async def test_each_status_has_its_error_class(status: int, kind: type[AzureError]) -> None:
    async with running_imds() as imds:
        headers = {"Retry-After": "11", "x-ms-request-id": "0a-1b", "Location": "http://127.0.0.1:1/"}
        imds.script = [Reply(status, error_body("some_code", "Some sentence"), headers)]
        async with source_of(imds, Pauses(), retry_delays=()) as source:
            with pytest.raises(AzureError) as raised:
                await source.token("r")
        assert len(imds.calls) == 1
    error = raised.value
    assert type(error) is kind
    assert (error.status, error.code, error.message) == (status, "some_code", "Some sentence")
    assert (error.retry_after, error.correlation_id) == (11.0, "0a-1b")


@pytest.mark.parametrize("selector", ["client_id", "object_id"])
async def test_an_error_that_contains_the_requested_id_is_redacted(selector: str) -> None:
    async with running_imds() as imds:
        imds.script = [
            Reply(400, error_body("unauthorized_client", f"AADSTS700016: no application '{CLIENT_ID.lower()}'"))
        ]
        with pytest.raises(Refused) as raised:
            await ask(imds, **{selector: CLIENT_ID})
    assert raised.value.message == "AADSTS700016: no application 'C11E…000a'"


@pytest.mark.parametrize("body", [b"<html>nope</html>", b'{"error":' + b"[" * 50_000, b'{"x":' * 10_000])
async def test_an_error_that_is_not_json_is_still_classified(body: bytes) -> None:
    async with running_imds() as imds:
        imds.script = [Reply(400, body)]
        with pytest.raises(Refused) as raised:
            await ask(imds)
    assert (raised.value.code, raised.value.message) == ("", "status 400")


async def test_a_missing_response_is_unreachable() -> None:
    async with running_imds() as imds:
        pass
    with pytest.raises(Unreachable):
        await ask(imds)


async def test_an_attempt_ends_at_the_callers_time_limit() -> None:
    async with running_imds() as imds:
        imds.script = [HANG]
        async with source_of(imds, Pauses()) as source:
            with pytest.raises(Unreachable) as raised:
                await source.token("r", within=0.05)
    assert raised.value.code == "timeout"


async def test_an_attempt_has_its_own_time_limit() -> None:
    async with running_imds() as imds:
        imds.script = [HANG]
        async with source_of(imds, Pauses(), attempt_seconds=1.0) as source:
            assert (await source.token("r", within=30.0)).resource == "r"
        assert len(imds.calls) == 2


async def test_no_repr_and_no_error_contains_a_token() -> None:
    async with running_imds() as imds:
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
