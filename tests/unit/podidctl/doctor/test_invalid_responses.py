"""A response that is no valid object is an unread part of the report, or an error of the command, never a traceback."""

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import pytest
from aiohttp import web
from typing_extensions import override

from podidctl.checks.explanation import explain
from podidctl.checks.rules import report
from podidctl.facts.model import Facts
from podidctl.reading.reader import CLUSTER, pod_parts, read
from podidctl.report.documents import CheckResult
from podidctl.report.finding import Level
from podidentity.kube.client import Client
from podidentity.kube.errors import ApiError
from tests.support.memory_api import MemoryApi
from tests.support.mic.emulated_cloud import EXCEPTIONS
from tests.support.podidctl.memory_cluster import MemoryCluster

DEEP: Final = "[" * 20_000 + "]" * 20_000
INVALID: Final = ("null", '"text"', "7", "[]", "{}", "[null]", DEEP, '"\udcff"')
"""JSON that is no object of the API, JSON that no decoder in Python accepts, and text that is not UTF-8."""
PLACES: Final[tuple[tuple[Any, ...], ...]] = (
    (),
    ("metadata",),
    ("metadata", "annotations"),
    ("spec",),
    ("status",),
    ("data",),
    ("items",),
    ("items", 0),
    ("items", 0, "metadata"),
    ("items", 0, "spec"),
    ("items", 0, "status"),
)


class InvalidApi(MemoryApi):
    """An API server with *value* at *place* of each response whose path contains one of *parts*."""

    parts: tuple[str, ...] = ()
    place: tuple[Any, ...] = ()
    value = ""
    changed = False

    @override
    async def respond(self, request: web.BaseRequest) -> web.StreamResponse:
        response = await super().respond(request)
        if not any(part in request.path for part in self.parts) or response.content_type != "application/json":
            return response
        assert isinstance(response, web.Response)
        assert isinstance(response.body, bytes)
        document = json.loads(response.body)
        if response.status >= 300 or not _has(document, self.place):
            return response
        self.changed = True
        body = json.dumps(_with(document, self.place, "VALUE")).replace('"VALUE"', self.value)
        return web.Response(body=body.encode(errors="surrogateescape"), status=response.status)


def _has(document: Any, place: tuple[Any, ...]) -> bool:
    for key in place:
        if not (key in document if isinstance(document, dict) else isinstance(document, list) and document):
            return False
        document = document[key]
    return True


def _with(document: Any, place: tuple[Any, ...], value: Any) -> Any:
    if not place:
        return value
    document[place[0]] = _with(document[place[0]], place[1:], value)
    return document


def fill(api: MemoryApi, client: Client) -> None:
    """Create one object of each kind that the commands read."""
    cluster = MemoryCluster(api, client)
    cluster.node("n0")
    guid = "9d9b2b5e-0000-0000-0000-000000000001"
    secret = {"name": "secret", "namespace": "default"}
    cluster.identity("federated", selector="demo", type=3, clientID=guid, tenantID=guid)
    cluster.identity("principal", selector="demo", type=1, clientID=guid, tenantID=guid, clientPassword=secret)
    cluster.create(EXCEPTIONS, "exception", {"podLabels": {"app": "other"}})
    cluster.pod("web", "n0")
    flags = ("--node=n0", "--federated-identities", "--federated-exchange=identityBindings")
    cluster.daemon("nmi", args=flags, hostNetwork=True)
    cluster.daemon("mic", component="mic", args=())
    lock = {"metadata": {"name": "aad-pod-identity-mic", "namespace": "default", "annotations": {"a": "b"}}}
    for kind, document in (
        ("leases.coordination.k8s.io", lock | {"spec": {"holderIdentity": "mic"}}),
        ("endpoints", lock),
        ("secrets", {"metadata": secret, "data": {"clientSecret": "eA=="}}),
        ("configmaps", {"metadata": {"name": "aad-pod-identity-config", "namespace": "default"}, "data": {"a": "b"}}),
    ):
        api.store.create(kind, document)


async def examined(client: Client) -> list[CheckResult]:
    return report(await read(client, Facts(), CLUSTER)).findings


async def explained(client: Client) -> object:
    return explain(await read(client, Facts(scope=("default", "web")), pod_parts(None)))


PARTS: Final = (
    ("/version", "/configmaps/", "/leases/", "/endpoints/", "/ciliumnodes", "/events", "/secrets/", "/serviceaccounts"),
    ("/customresourcedefinitions/", "/azureassignedidentities", "/clusterroles", "/clusterrolebindings"),
    ("/pods", "/nodes", "/azureidentities"),
    ("/subjectaccessreviews",),
)
"""Requests whose responses are invalid together, because no request of the others depends on them."""


@pytest.mark.parametrize("run", [examined, explained])
@pytest.mark.parametrize("parts", PARTS)
async def test_an_invalid_response_raises_no_other_error(run: Callable[[Client], Any], parts: tuple[str, ...]) -> None:
    api = InvalidApi()
    async with api.client("podidctl/test") as client:
        fill(api, client)
        api.parts = parts
        for place in PLACES:
            api.place, api.changed = place, False
            for api.value in INVALID if not place else INVALID[:4]:
                with suppress(ApiError):  # the command prints it
                    await run(client)
                if not api.changed:
                    break  # no response has this place


@pytest.mark.parametrize(
    ("part", "place", "value", "check", "message"),
    [
        ("/version", (), DEEP, "API server", "the API server did not report its version at /version"),
        ("/leases/", (), "null", "leader", "the response about leases cannot be read"),
        ("/endpoints/", ("metadata",), "[]", "leader", "the response about endpoints cannot be read"),
        (
            "/subjectaccessreviews",
            ("status",),
            "null",
            "rights",
            "the response about subjectaccessreviews cannot be read",
        ),
        ("/configmaps/", ("data",), '"text"', "rights", "ConfigMap default/aad-pod-identity-config cannot be read"),
    ],
)
async def test_the_finding_names_the_response(
    part: str, place: tuple[str, ...], value: str, check: str, message: str
) -> None:
    api = InvalidApi()
    async with api.client("podidctl/test") as client:
        fill(api, client)
        api.parts, api.place, api.value = (part,), place, value
        findings = [finding for finding in await examined(client) if finding.level is Level.UNKNOWN]
    assert any(finding.check == check and message in finding.says for finding in findings), findings
