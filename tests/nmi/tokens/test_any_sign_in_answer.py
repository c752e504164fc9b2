"""For any response of a sign-in endpoint: an AzureError or a token, bounded, and without the sent secrets."""

import asyncio
import base64
import json
import time
from typing import Any

from aiohttp import web
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nmi.tokens import entra
from nmi.tokens.sign_in import SignIn
from podidentity.azure.clouds import Endpoint
from podidentity.azure.errors import MESSAGE_MAX, AzureError
from tests.nmi.tokens.sign_in_bench import Bench
from tests.virtual_time import VirtualTimeLoop

SECRET = "Zx8Q~0123456789-of.ours_in_all"
ASKED = SignIn(Endpoint("login.example"), "tenant", "c11e0000-0000-0000-0000-00000000000a", "r", secret=SECRET)

words = st.sampled_from([SECRET, ASKED.client_id, "AADSTS7000215", "invalid_client", "\n", "é", "x" * 300]) | st.text()
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
    error = entra._failure(ASKED, policy, ValueError(SECRET))
    text = f"{error} {error.message} {error.code} {error.correlation_id}"
    assert SECRET not in text
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


def deep() -> str:
    """Claims that are nested too deep to be read."""
    return base64.urlsafe_b64encode(b'{"x":' + b"[" * 20_000).decode()


def test_any_body_results_in_a_token_or_in_a_known_error() -> None:
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        bench = Bench()
        runner.run(bench.start())
        try:
            sign_in_with_any_body(bench, runner)
        finally:
            runner.run(bench.stop())


def sign_in_with_any_body(bench: Bench, runner: asyncio.Runner) -> None:
    bench.source = bench.new_source(retry_delays=())
    principal = bench.directory.add_principal(secret=SECRET)
    bench.put_secret(k=SECRET.encode())
    identity = bench.identity(principal)
    given_now: dict[str, Any] = {}

    async def odd(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=given_now["body"], status=given_now["status"], content_type="application/json")

    bench.aad.handle = odd  # type: ignore[method-assign]

    async def once() -> None:
        text = ""
        try:
            granted = await bench.fetch(identity)
        except AzureError as error:
            text = str(error)
        else:
            assert granted.token.access_token.isprintable()
        assert SECRET not in text

    @settings(max_examples=60, deadline=None)
    @example(200, b"[" * 60_000)
    @example(400, b'{"x":' * 10_000)
    @example(200, json.dumps({"access_token": f"a.{deep()}.c", "expires_in": 5}).encode())
    @example(200, b'{"access_token": "a", "expires_in": Infinity}')
    @example(200, b'{"access_token": "a", "expires_in": 1e400}')
    @example(200, b'{"access_token": "a", "expires_in": 5, "token_type": 7}')
    @given(st.sampled_from([200, 400, 503]), bodies)
    def exchange(status: int, body: bytes) -> None:
        given_now.update(status=status, body=body)
        runner.run(once())

    exchange()
