"""Test that the output of MIC and NMI contains no token, secret, password or whole client id, at any verbosity.

One run with grants, refusals and every kind of failure that involves a secret. IMDS and AAD return the values that they
received. Excluded: the programs' memory, and the responses to pods that are tokens.
"""

import base64
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from urllib.parse import quote

import pytest
from aiohttp import web

from podidentity.resources import ASSIGNED, ASSIGNED_IDENTITIES
from podidentity_sandbox.azure import DEMO_CLIENT_ID, identity_id
from podidentity_sandbox.network import ExecutionContext
from podidentity_sandbox.sandbox import Sandbox
from podidentity_sandbox.serving import FaultyService, json_response
from podidentity_sandbox.settings import SandboxSettings
from tests.support.identity_requests import (
    TOKEN,
    TOKEN_TARGET,
    ask,
    binding,
    end,
    identity,
    page,
    run_pod,
    secret,
    start_again,
)
from tests.support.leaks import Ledger
from tests.support.nmi.tokens.sign_in_bench import certificate_of, pfx_of, rsa_key
from tests.support.waiting import until

PASSWORD = "the-passw0rd-of-the-file"


class Walk:
    """Sandbox with a pod for each type of identity, and the responses to the pods."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.refusals: list[str] = []
        self.tokens: set[str] = set()
        self.pods: dict[str, ExecutionContext] = {}
        certificate = certificate_of(rsa_key(), "app")
        self.first = sandbox.azure.directory.add_principal()
        self.second = sandbox.azure.directory.add_principal(certificate=certificate)
        self.pfx = pfx_of(rsa_key(), certificate, PASSWORD.encode())

    async def prepare(self) -> None:
        """Create Secrets, identities, bindings and pods. Return once every identity is assigned."""
        cluster, tenant = self.sandbox.cluster, self.sandbox.azure.directory.tenant_id
        await cluster.apply(secret("first", {"secret": self.first.secret.encode()}))
        await cluster.apply(secret("second", {"certificate": self.pfx, "password": PASSWORD.encode()}))
        specs: dict[str, dict[str, Any]] = {
            "zero": {"type": 0, "resourceID": identity_id("demo"), "clientID": DEMO_CLIENT_ID},
            "first": {"type": 1, "tenantID": tenant, "clientID": self.first.client_id},
            "second": {"type": 2, "tenantID": tenant, "clientID": self.second.client_id},
        }
        for name, spec in specs.items():
            if spec["type"]:
                spec["clientPassword"] = {"name": name, "namespace": "default"}
            await cluster.apply(identity(name, **spec))
            await cluster.apply(binding(name, name))
            self.pods[name] = await run_pod(self.sandbox, name, {"aadpodidbinding": name})
        self.pods["unbound"] = await run_pod(self.sandbox, "unbound", {})
        await until(
            lambda: cluster.client.list(ASSIGNED_IDENTITIES),
            "all identities are assigned",
            holds=lambda assigned: [item.status.status for item in assigned] == [ASSIGNED] * len(specs),
        )

    async def ask(self, pod: str, path: str = TOKEN_TARGET, **headers: str) -> int:
        """Send a request and return the status. Record a token in `tokens` and any other response in `refusals`."""
        response = await ask(self.sandbox, self.pods[pod], path=path, headers={"Metadata": "true", **headers})
        if response.status == 200 and "access_token" in response.text:
            self.tokens.add(response.body["access_token"])
        else:
            self.refusals.append(f"{response.headers} {response.text}")
        return response.status

    async def events(self) -> str:
        return (await self.sandbox.cluster.client.request("GET", "/api/v1/events")).decode()

    async def everything_written(self) -> dict[str, str]:
        """Return all output that a reader without access to the secrets may see, by name."""
        nmi = self.sandbox.nmis["node-0"]
        assert self.sandbox.mic is not None
        return {
            **{program.name: program.log.read_text() for program in (nmi.program, self.sandbox.mic)},
            "NMI's readiness": await page(self.sandbox, nmi.probe_port, "/readyz?verbose"),
            "NMI's state": await page(self.sandbox, nmi.probe_port, "/debug/state"),
            "NMI's metrics": await page(self.sandbox, nmi.metrics_port, "/metrics"),
            "MIC's metrics": await page(self.sandbox, self.sandbox.mic_ports.metrics, "/metrics"),
            "the Events": await self.events(),
            "the refusals": "\n".join(self.refusals),
        }


@contextmanager
def echoing(service: FaultyService, status: int, *texts: str) -> Iterator[None]:
    """Let *service* fail every request. Each part of its response contains all received values and all of *texts*."""

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        form = await request.post() if request.method == "POST" else {}
        text = " ".join([*texts, *request.rel_url.query.values(), *(str(value) for value in form.values())])
        document = {
            "error": "invalid_client",
            "error_description": f"AADSTS7000215: {text} is not what was expected. Trace ID: {text}",
            "error_codes": [7000215],
            "trace_id": text,
            "correlation_id": text,
            "error_uri": f"https://login.invalid/?{text}",
        }
        headers = {"x-ms-request-id": text, "x-ms-client-request-id": text}
        return json_response(document, status=status, headers=headers)

    usual = service.handle
    service.handle = handle  # type: ignore[method-assign]
    yield
    service.handle = usual  # type: ignore[method-assign]


@pytest.mark.parametrize("flags", [("-v=4", "--log-format=text"), ("-v=10", "--log-format=json")])
async def test_no_readable_output_contains_a_secret(ledger: Ledger, flags: tuple[str, ...]) -> None:
    nmi_flags = [*flags, "--max-hold=45s"]  # a first sign-in on a busy machine takes long
    settings = SandboxSettings(namespaces=False, nmi_flags=nmi_flags, mic_flags=flags, environment=os.environ)
    async with Sandbox(settings) as sandbox:
        walk, azure = Walk(sandbox), sandbox.azure
        ledger.note_secret(PASSWORD)
        ledger.note_secret(base64.b64encode(walk.pfx).decode()[-60:])
        await walk.prepare()
        for pod in ("zero", "first", "second"):
            await until(partial(walk.ask, pod), "the pod gets a token", holds=lambda status: status == 200)
            assert await walk.ask(pod) == 200
        (token, *_) = walk.tokens
        assert len(walk.tokens) == 3
        with_tokens = await walk.everything_written()

        nmi_flags[-1] = "--max-hold=2s"
        assert await end(sandbox.nmis["node-0"].program) == 0
        await start_again(sandbox)
        assert await walk.ask("zero", f"{TOKEN_TARGET}&client_id={uuid.uuid4()}") == 404
        assert await walk.ask("unbound") == 400
        assert await walk.ask("zero", Metadata="no") == 400
        assert await walk.ask("zero", "/metadata/instance/%2e/compute", Authorization=f"Bearer {token}") in {200, 400}
        for place in (
            f"{TOKEN_TARGET}&assertion={token}",
            f"/metadata/{token}",
            f"/metadata/identity/{walk.first.secret}",
        ):
            assert await walk.ask("zero", place, Cookie=token) in {200, 400, 404}

        for number, status in enumerate((400, 401, 403, 429, 500)):
            path = f"{TOKEN}?resource={quote(f'https://{number}.azure.net')}"
            with echoing(azure.imds, status, token), echoing(azure.aad, status, token):
                for pod in ("zero", "first", "second"):
                    assert await walk.ask(pod, path) in {403, 404, 429, 503}

        await until(walk.events, "the Event of the refusal", holds=lambda text: "label it aad" in text)
        written = await walk.everything_written()
    assert "[+]api server ok\n[+]watches ok\n[+]redirect ok" in written["NMI's readiness"]
    assert "default/first" in written["NMI's state"]
    assert all(len(text) > 20 for text in written.values()), {name: len(text) for name, text in written.items()}
    for name, text in (*with_tokens.items(), *written.items()):
        assert not ledger.found_in(text), f"{ledger.found_in(text)} in {name}"
        assert not any(token in text for token in walk.tokens), name
        for client_id in (DEMO_CLIENT_ID, walk.first.client_id, walk.second.client_id):
            assert client_id not in text.lower(), f"{name} holds a whole client id"
