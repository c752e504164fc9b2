"""No secret, password, key, assertion or token appears in a log line, a repr or an exception, for any failure.

Also not if the endpoint returns the sent values. Any response results in a bounded AzureError or in a token.
"""

import asyncio
import base64
import io
import json
import time
import traceback
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from aiohttp import web
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nmi.tokens import entra
from nmi.tokens.endpoints import SignInPolicy
from nmi.tokens.secrets import SECRETS, ClientSecret, KeyStore, Secrets
from nmi.tokens.sign_in import SignIn, SignInResult
from podidentity.azure.clouds import PUBLIC, Endpoint
from podidentity.azure.errors import MESSAGE_MAX, AzureError
from podidentity_sandbox.serving import ResponseFault
from tests.support.nmi.tokens.sign_in_bench import Bench, certificate_of, pfx_of, rsa_key
from tests.support.virtual_time import VirtualTimeLoop

SECRET = "Zx8Q~th1s+is/the&secret=of%20ours"
PASSWORD = b"the-passw0rd-of-the-file"


def shown(error: BaseException) -> str:
    """Return all text that a `log.exception` could write, with arguments and chained errors."""
    lines = traceback.format_exception(error)
    met: BaseException | None = error
    while met is not None:
        lines += [repr(met), str(met), repr(vars(met)), repr(met.args)]
        met = met.__cause__ or met.__context__
    return "\n".join(lines)


def holds(text: str, *secret: str) -> list[str]:
    spelled = {form for value in secret for form in (value, quote(value), quote_plus(value), repr(value)[1:-1])}
    return [form for form in spelled if form in text]


@pytest.mark.parametrize("secret", [SECRET, "Plain-w0rd_of.30.characters.in"], ids=["odd", "plain"])
async def test_an_endpoint_that_echoes_the_secret_is_not_quoted(
    bench: Bench, everything_logged: io.StringIO, secret: str
) -> None:
    bench.source = bench.new_source(retry_delays=())
    principal = bench.directory.add_principal(secret=secret)
    bench.put_secret(k=secret.encode())
    statuses = [400, 401, 403, 429, 500, 302, 200]

    async def echo(request: web.BaseRequest) -> web.StreamResponse:
        sent = (await request.read()).decode()
        text = f"AADSTS7000215: {secret} {sent} {quote(secret)}"
        body = {"error": secret, "error_description": text, "correlation_id": secret, secret: secret}
        if statuses[0] == 403:
            body = {"error": "invalid_client", "error_description": text}
        return web.json_response(body, status=statuses[0], headers={"x-ms-request-id": quote(secret)})

    bench.aad.handle = echo  # type: ignore[method-assign]
    while statuses:
        with pytest.raises(AzureError) as caught:
            await bench.fetch(bench.identity(principal))
        assert not holds(shown(caught.value), secret), statuses[0]
        statuses.pop(0)
    assert not holds(everything_logged.getvalue(), secret)


async def test_no_token_is_logged_on_success(bench: Bench, everything_logged: io.StringIO) -> None:
    certificate = certificate_of(rsa_key())
    principal = bench.directory.add_principal(secret=SECRET, certificate=certificate)
    bench.put_secret("sp", k=SECRET.encode())
    tokens = [(await bench.fetch(bench.identity(principal))).token]
    bench.put_secret("sp", certificate=pfx_of(rsa_key(), certificate, PASSWORD), password=PASSWORD)
    granted = await bench.fetch(bench.identity(principal, type=2))
    tokens.append(granted.token)
    text = everything_logged.getvalue() + repr(granted)
    assert not holds(text, SECRET, PASSWORD.decode(), *(token.access_token for token in tokens))
    assert "eyJ" not in text


@pytest.mark.parametrize(
    "document",
    [
        {"access_token": "t0ken-t0ken", "refresh_token": "t0ken-t0ken"},
        {"access_token": "t0ken-t0ken\n", "expires_in": 3600},
        {"access_token": "t0ken-t0ken", "expires_in": "t0ken-t0ken"},
        ["t0ken-t0ken"],
    ],
)
async def test_a_malformed_token_response_is_not_quoted(
    bench: Bench, everything_logged: io.StringIO, document: Any
) -> None:
    bench.source = bench.new_source(retry_delays=())
    bench.aad.faults.add(ResponseFault(status=200, document=document))
    with pytest.raises(AzureError) as caught:
        await bench.fetch(bench.identity(bench.principal(SECRET)))
    assert not holds(shown(caught.value) + everything_logged.getvalue(), "t0ken-t0ken", SECRET)


@pytest.mark.parametrize("password", [b"", b"another"], ids=["none", "wrong"])
async def test_a_file_that_cannot_be_opened_is_not_quoted(
    bench: Bench, everything_logged: io.StringIO, password: bytes
) -> None:
    principal = bench.directory.add_principal(certificate=certificate_of(rsa_key()))
    pfx = pfx_of(rsa_key(), certificate_of(rsa_key()), PASSWORD)
    bench.put_secret(certificate=pfx, password=password)
    with pytest.raises(AzureError) as caught:
        await bench.fetch(bench.identity(principal, type=2))
    text = shown(caught.value) + everything_logged.getvalue()
    assert not holds(text, PASSWORD.decode(), "another", repr(pfx[:20])[2:-1])


async def test_an_unreadable_secret_is_not_quoted(bench: Bench, everything_logged: io.StringIO) -> None:
    principal = bench.directory.add_principal(secret=SECRET)
    bench.put_secret(k=SECRET.encode() + b"\xff")
    with pytest.raises(AzureError) as caught:
        await bench.fetch(bench.identity(principal))
    assert not holds(shown(caught.value) + everything_logged.getvalue(), SECRET)


async def test_reprs_of_intermediate_values_contain_no_secret(bench: Bench) -> None:
    bench.put_secret(k=SECRET.encode())
    stored = await bench.client.get(SECRETS, "team-a", "sp")
    assert stored.data == {"k": SECRET.encode()}
    values: list[object] = [
        stored,
        ClientSecret(SECRET, "v"),
        KeyStore(SECRET.encode(), SECRET.encode(), "v"),
        SignIn(Endpoint("x"), "t", "c", "r", secret=SECRET, assertion=SECRET),
        SignInResult(SECRET, 0, 0, "", "Bearer"),
        bench.source,
        Secrets(bench.client),
        SignInPolicy(PUBLIC),
    ]
    for value in values:
        text = f"{value!r} {value} {[value]}" + repr(getattr(value, "__rich_repr__", list)())
        assert not holds(text, SECRET), value


TOO_DEEP = base64.urlsafe_b64encode(b'{"x":' + b"[" * 20_000).decode()
"""Claims that are nested too deep to be read."""
PLAIN_SECRET = "Zx8Q~0123456789-of.ours_in_all"
ASKED = SignIn(Endpoint("login.example"), "tenant", "c11e0000-0000-0000-0000-00000000000a", "r", secret=PLAIN_SECRET)

words = (
    st.sampled_from([PLAIN_SECRET, ASKED.client_id, "AADSTS7000215", "invalid_client", "\n", "é", "x" * 300])
    | st.text()
)
sentences = st.lists(words, max_size=6).map(" ".join)
values = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | sentences | st.lists(sentences, max_size=2)
)
fields = ["error", "error_description", "correlation_id", "access_token", "expires_in", "expires_on", "token_type"]
bodies = st.dictionaries(st.sampled_from(fields), values).map(lambda body: json.dumps(body).encode()) | st.binary()


@given(st.sampled_from([0, 200, 204, 302, 400, 401, 403, 404, 408, 429, 500, 503, 599]), bodies, sentences)
def test_an_error_is_bounded_plain_and_without_the_secret(status: int, body: bytes, header: str) -> None:
    policy = entra._Policy(ASKED.token_url, "")
    policy.status, policy.body = status, body
    policy.headers = {"retry-after": header, "x-ms-request-id": header}
    error = entra._failure(ASKED, policy, ValueError(PLAIN_SECRET))
    text = f"{error} {error.message} {error.code} {error.correlation_id}"
    assert PLAIN_SECRET not in text
    assert ASKED.client_id not in error.message
    assert len(error.message) <= MESSAGE_MAX
    assert error.message.isprintable()
    assert len(error.code) <= 64
    assert error.retry_after is None or 0.0 <= error.retry_after <= 3600.0


def test_a_message_of_spaces_costs_no_time() -> None:
    policy = entra._Policy(ASKED.token_url, "")
    policy.status, policy.body = 400, json.dumps({"error": "x", "error_description": "a" + " " * 60_000 + "b"}).encode()
    began = time.process_time()
    assert entra._failure(ASKED, policy, ValueError()).message
    assert time.process_time() - began < 1.0


def test_any_body_results_in_a_token_or_in_a_known_error() -> None:
    response: dict[str, Any] = {}

    async def odd(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(**response, content_type="application/json")

    async def fetch() -> str:
        try:
            return (await bench.fetch(identity)).token.access_token
        except AzureError as error:
            return str(error)

    @settings(max_examples=60, deadline=None)
    @example(200, b"[" * 60_000)
    @example(400, b'{"x":' * 10_000)
    @example(200, json.dumps({"access_token": f"a.{TOO_DEEP}.c", "expires_in": 5}).encode())
    @example(200, b'{"access_token": "a", "expires_in": Infinity}')
    @example(200, b'{"access_token": "a", "expires_in": 1e400}')
    @example(200, b'{"access_token": "a", "expires_in": 5, "token_type": 7}')
    @given(st.sampled_from([200, 400, 503]), bodies)
    def exchange(status: int, body: bytes) -> None:
        response.update(status=status, body=body)
        text = runner.run(fetch())
        assert text.isprintable()
        assert PLAIN_SECRET not in text

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        bench = Bench()
        runner.run(bench.start())
        try:
            bench.source = bench.new_source(retry_delays=())
            identity = bench.identity(bench.principal(PLAIN_SECRET))
            bench.aad.handle = odd  # type: ignore[method-assign]
            exchange()
        finally:
            runner.run(bench.stop())
