"""No secret, password, key, assertion or token appears in a log line, a repr or an exception, for any failure.

Also not if the endpoint returns the sent values.
"""

import io
import traceback
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from aiohttp import web

from nmi.tokens.endpoints import SignInPolicy
from nmi.tokens.secrets import SECRETS, ClientSecret, KeyStore, Secrets
from nmi.tokens.sign_in import SignIn, SignInResult
from podidentity.azure.clouds import PUBLIC, Endpoint
from podidentity.azure.errors import AzureError
from tests.nmi.tokens.sign_in_bench import Bench, certificate_of, pfx_of, rsa_key

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
    spelled = {spelling for each in secret for spelling in (each, quote(each), quote_plus(each), repr(each)[1:-1])}
    return [each for each in spelled if each in text]


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


async def test_a_malformed_token_response_is_not_quoted(bench: Bench, everything_logged: io.StringIO) -> None:
    bench.source = bench.new_source(retry_delays=())
    principal = bench.directory.add_principal(secret=SECRET)
    bench.put_secret(k=SECRET.encode())
    bodies: list[Any] = [
        {"access_token": "t0ken-t0ken", "refresh_token": "t0ken-t0ken"},
        {"access_token": "t0ken-t0ken\n", "expires_in": 3600},
        {"access_token": "t0ken-t0ken", "expires_in": "t0ken-t0ken"},
        ["t0ken-t0ken"],
    ]

    async def odd(request: web.BaseRequest) -> web.StreamResponse:
        return web.json_response(bodies[0])

    bench.aad.handle = odd  # type: ignore[method-assign]
    while bodies:
        with pytest.raises(AzureError) as caught:
            await bench.fetch(bench.identity(principal))
        assert not holds(shown(caught.value), "t0ken-t0ken", SECRET), bodies[0]
        bodies.pop(0)
    assert not holds(everything_logged.getvalue(), "t0ken-t0ken", SECRET)


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
