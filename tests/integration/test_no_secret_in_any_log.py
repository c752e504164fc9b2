"""Test that the output of MIC and NMI contains no token, secret, password or whole client id, at any verbosity.

One run with grants, refusals and every kind of failure that involves a secret. IMDS and AAD return the values that they
received. Excluded: the programs' memory, and the answers to pods that are tokens.
"""

import asyncio
import base64
import http.client
import json
import os
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from urllib.parse import quote

import pytest
from aiohttp import web

from podidentity.resources import ASSIGNED, ASSIGNED_IDENTITIES, PODS
from podidentity_sandbox.azure import DEMO_CLIENT_ID, identity_id
from podidentity_sandbox.sandbox import Sandbox
from podidentity_sandbox.serving import FaultyService, json_response
from podidentity_sandbox.settings import Settings
from tests.leaks import Ledger
from tests.nmi.tokens.sign_in_bench import certificate_of, pfx_of, rsa_key
from tests.support.waiting import until

PATH = "/metadata/identity/oauth2/token?resource=https%3A%2F%2Fmanagement.azure.com%2F"
PASSWORD = "the-passw0rd-of-the-file"
SECONDS = 20.0


class Walk:
    """Sandbox with a pod for each type of identity, and the answers to the pods."""

    def __init__(self, sandbox: Sandbox, ledger: Ledger) -> None:
        self.sandbox = sandbox
        self.ledger = ledger
        self.refusals: list[str] = []
        self.tokens: set[str] = set()
        directory = sandbox.azure.directory
        certificate = certificate_of(rsa_key(), "app")
        self.first = directory.add_principal()
        self.second = directory.add_principal(certificate=certificate)
        self.pfx = base64.b64encode(pfx_of(rsa_key(), certificate, PASSWORD.encode(), 2_000)).decode()
        self.client_ids = {DEMO_CLIENT_ID, self.first.client_id, self.second.client_id}
        ledger.note_secret(PASSWORD)
        ledger.note_secret(self.pfx[-60:])

    async def prepare(self) -> None:
        """Create Secrets, identities, bindings and pods. Return once every identity is assigned."""
        tenant = self.sandbox.azure.directory.tenant_id
        password = base64.b64encode(PASSWORD.encode()).decode()
        await self.apply("v1", "Secret", "first", stringData={"secret": self.first.secret}, type="Opaque")
        await self.apply("v1", "Secret", "second", data={"certificate": self.pfx, "password": password}, type="Opaque")
        specs: dict[str, dict[str, Any]] = {
            "zero": {"type": 0, "resourceID": identity_id("demo"), "clientID": DEMO_CLIENT_ID},
            "first": {"type": 1, "tenantID": tenant, "clientID": self.first.client_id},
            "second": {"type": 2, "tenantID": tenant, "clientID": self.second.client_id},
        }
        for name, spec in specs.items():
            if spec["type"]:
                spec["clientPassword"] = {"name": name, "namespace": "default"}
            await self.apply("aadpodidentity.k8s.io/v1", "AzureIdentity", name, spec=spec)
            bound = {"azureIdentity": name, "selector": name}
            await self.apply("aadpodidentity.k8s.io/v1", "AzureIdentityBinding", f"{name}-binding", spec=bound)
        for name in (*specs, "unbound"):
            containers = {"containers": [{"name": "main", "image": "pause"}]}
            labels = {} if name == "unbound" else {"aadpodidbinding": name}
            await self.apply("v1", "Pod", name, labels=labels, spec=containers)
        await until(
            lambda: self.sandbox.cluster.client.list(ASSIGNED_IDENTITIES),
            "all identities are assigned",
            holds=lambda assigned: [each.status.status for each in assigned] == [ASSIGNED] * len(specs),
        )

    async def apply(self, version: str, kind: str, name: str, **rest: Any) -> None:
        metadata = {"name": name, "namespace": "default", "labels": rest.pop("labels", {})}
        await self.sandbox.cluster.apply({"apiVersion": version, "kind": kind, "metadata": metadata, **rest})

    async def address(self, pod: str) -> str:
        found = await until(
            lambda: self.sandbox.cluster.client.get(PODS, "default", pod), holds=lambda it: it.status.pod_ip
        )
        return found.status.pod_ip

    async def ask(self, pod: str, path: str = PATH, **headers: str) -> int:
        """Send a request and return the status. Record a token in `tokens` and any other answer in `refusals`."""
        given = {"Metadata": "true", **headers}
        status, head, body = await asyncio.to_thread(self._ask, await self.address(pod), path, given)
        if status == 200 and "access_token" in body:
            self.tokens.add(json.loads(body)["access_token"])
        else:
            self.refusals.append(head + body)
        return status

    def _ask(self, address: str, path: str, headers: dict[str, str]) -> tuple[int, str, str]:
        where = self.sandbox.nmis["node-0"].url.removeprefix("http://")
        connection = http.client.HTTPConnection(where, timeout=SECONDS, source_address=(address, 0))
        try:
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            return answer.status, str(answer.headers), answer.read().decode()
        finally:
            connection.close()

    async def everything_written(self) -> dict[str, str]:
        """Return all output that a reader without access to the secrets may see, by name."""
        nmi = self.sandbox.nmis["node-0"]
        assert self.sandbox.mic is not None
        written = {program.name: program.log.read_text() for program in (nmi.program, self.sandbox.mic)}
        written["NMI's readiness"] = await asyncio.to_thread(page, nmi.probe_port, "/readyz?verbose")
        for name, port in {"NMI": nmi.metrics_port, "MIC": self.sandbox.mic_metrics_port}.items():
            written[f"{name}'s metrics"] = await asyncio.to_thread(page, port, "/metrics")
        written["the Events"] = (await self.sandbox.cluster.client.request("GET", "/api/v1/events")).decode()
        written["the refusals"] = "\n".join(self.refusals)
        return written


def page(port: int, path: str) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().read().decode()
    finally:
        connection.close()


@asynccontextmanager
async def walking(ledger: Ledger, *flags: str) -> AsyncIterator[Walk]:
    settings = Settings(namespaces=False, nmi_flags=[*flags, "--max-hold=2s"], mic_flags=flags, environment=os.environ)
    async with Sandbox(settings) as sandbox:
        walk = Walk(sandbox, ledger)
        await walk.prepare()
        yield walk


@contextmanager
def echoing(service: FaultyService, status: int, *known: str) -> Iterator[None]:
    """Let *service* fail every request. Each part of its answer contains all received values and all of *known*."""

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        form = await request.post() if request.method == "POST" else {}
        text = " ".join([*known, *request.rel_url.query.values(), *(str(value) for value in form.values())])
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


@pytest.mark.timeout(180)
@pytest.mark.parametrize("flags", [("-v=4", "--log-format=text"), ("-v=10", "--log-format=json")])
async def test_no_readable_output_contains_a_secret(ledger: Ledger, flags: tuple[str, ...]) -> None:
    async with walking(ledger, *flags) as walk:
        azure = walk.sandbox.azure
        for pod in ("zero", "first", "second"):
            assert await walk.ask(pod) == 200, (pod, walk.refusals)
            assert await walk.ask(pod) == 200
        (token, *_) = walk.tokens
        assert len(walk.tokens) == 3

        assert await walk.ask("zero", f"{PATH}&client_id={uuid.uuid4()}") == 404
        assert await walk.ask("unbound") == 400
        assert await walk.ask("zero", Metadata="no") == 400
        assert await walk.ask("zero", "/metadata/instance/%2e/compute", Authorization=f"Bearer {token}") in {200, 400}
        for place in (f"{PATH}&assertion={token}", f"/metadata/{token}", f"/metadata/identity/{walk.first.secret}"):
            assert await walk.ask("zero", place, Cookie=token) in {200, 400, 404}

        for number, status in enumerate((400, 401, 403, 429, 500)):
            other = f"/metadata/identity/oauth2/token?resource={quote(f'https://{number}.azure.net')}"
            with echoing(azure.imds, status, token), echoing(azure.aad, status, token):
                for pod in ("zero", "first", "second"):
                    assert await walk.ask(pod, other) in {403, 404, 429, 503}

        written = await walk.everything_written()
    assert all(len(text) > 20 for text in written.values()), {name: len(text) for name, text in written.items()}
    for name, text in written.items():
        assert not ledger.found_in(text), f"{ledger.found_in(text)} in {name}"
        assert not any(token in text for token in walk.tokens), name
        for client_id in walk.client_ids:
            lines = [line for line in text.splitlines() if client_id in line.lower()]
            assert not lines, f"{name} holds a whole client id: {lines[:1]}"
