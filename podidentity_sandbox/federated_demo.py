"""The demo of federated identities: a pod gets a token by its own service account, without a change to a VM.

The pod sends its request before AAD trusts its service account, and NMI holds the request until AAD does. For another
pod, whose service account AAD does not trust, NMI returns the credential that is missing. ARM gets no call and IMDS no
token request.
"""

import asyncio
import http.client
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

from typing_extensions import override

from podidentity.resources import ASSIGNED, ASSIGNED_IDENTITIES, PODS, IdentityType
from podidentity_sandbox.aad import AadCall
from podidentity_sandbox.azure import DEMO_CLIENT_ID
from podidentity_sandbox.demo_run import POLL_SECONDS, STEP_SECONDS, DemoError, DemoRun, Document, Step
from podidentity_sandbox.sandbox import Sandbox
from podidentity_sandbox.settings import EXCHANGE_AUDIENCE
from podidentity_sandbox.tokens import read_claims

NMI_FLAGS: Final = ("--federated-identities", "--max-hold=12s")
"""A short hold, so that the untrusted pod gets its response within one step."""
DELAY_SECONDS: Final = 2.0
"""The delay until AAD knows a credential; the real AAD takes seconds to minutes."""
RESOURCE: Final = "https://vault.azure.net"
TRUSTED: Final = "federated-demo"
STRANGER: Final = "federated-stranger"
SELECTOR: Final = "federated-demo"


class FederatedDemo(DemoRun):
    """The identity is of type 3."""

    def __init__(self, sandbox: Sandbox, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(sandbox, clock=clock)
        self._answer: Document = {}
        self._issuer = ""

    @override
    async def steps(self) -> AsyncIterator[Step]:
        try:
            yield await self._step("start the sandbox, MIC and NMI with --federated-identities", self._start)
            yield await self._step("look at the node's nat rule", self._rule_present)
            yield await self._step(
                "apply an identity of type 3, its binding, two service accounts with a pod each", self._make
            )
            yield await self._step("the pods run", self._run)
            yield await self._step("MIC assigns both: AzureAssignedIdentity", self._assigned)
            yield await self._step("the pod asks before Azure trusts its service account, and is held", self._held)
            yield await self._step("the token is the identity's", self._claims)
            yield await self._step("the response to the other pod names the missing credential", self._refused)
            yield await self._step("delete pods, binding, identity and service accounts", self._unmake)
            yield await self._step("MIC revokes both: AzureAssignedIdentity", self._revoked)
            yield await self._step("no call of ARM, and none of IMDS for a token", self._untouched)
            yield await self._step("stop NMI: the node's nat table", self._rule_gone)
        finally:
            await self._sandbox.stop()

    async def _make(self) -> str:
        return await self._apply(self._documents())

    async def _run(self) -> str:
        return "\n".join([f"{name} {await self._pod_runs(name)}" for name in (TRUSTED, STRANGER)])

    async def _assigned(self) -> str:
        while True:
            assigned = {
                each.spec.pod: f"{each.metadata.name}: {each.status.status}"
                for each in await self._sandbox.cluster.client.list(ASSIGNED_IDENTITIES, "default")
                if each.status.status == ASSIGNED
            }
            if assigned.keys() >= {TRUSTED, STRANGER}:
                return "\n".join(assigned[name] for name in (TRUSTED, STRANGER))
            await asyncio.sleep(POLL_SECONDS)

    async def _held(self) -> str:
        began = self._clock()
        asking = asyncio.create_task(self._ask(TRUSTED), name="the pod asks")
        try:
            while not self._refusals():
                if asking.done():
                    raise DemoError(f"the pod was answered before AAD was asked: {asking.result()}")
                await asyncio.sleep(POLL_SECONDS)
            credential = await self._sandbox.trust(TRUSTED, delay_seconds=DELAY_SECONDS)
            self._issuer, trusted = credential.issuer, self._clock() - began
            status, self._answer = await asking
        finally:
            asking.cancel()
        refusals = self._refusals()
        if status != 200:
            raise DemoError(f"the pod was answered {status} instead of being held: {self._answer}")
        return (
            f"AAD: {_counted(refusals)}; credential added after {trusted:.1f} s, known {DELAY_SECONDS:g} s later\n"
            f"issuer {credential.issuer}, subject {credential.subject}, audience {credential.audience}\n"
            f"the pod is answered 200 after {self._clock() - began:.1f} s"
        )

    async def _claims(self) -> str:
        claims = read_claims(str(self._answer["access_token"]))
        found = {name: claims.get(name) for name in ("appid", "oid", "aud", "xms_mirid")}
        demo = self._sandbox.azure.demo
        wanted = {"appid": DEMO_CLIENT_ID, "oid": demo.object_id, "aud": RESOURCE, "xms_mirid": demo.resource_id}
        if found != wanted:
            raise DemoError(f"the token has the claims {found} instead of {wanted}")
        self.lines = [f"{name} {value}" for name, value in found.items()]
        return "\n".join(self.lines)

    async def _refused(self) -> str:
        status, answer = await self._ask(STRANGER)
        text = str(answer.get("error_description", answer))
        subject = f"system:serviceaccount:default:{STRANGER}"
        missing = [part for part in (self._issuer, subject, EXCHANGE_AUDIENCE) if part not in text]
        if status == 200 or missing:
            raise DemoError(
                f"the other pod was answered {status} without {', '.join(missing) or 'a refusal'}: {answer}"
            )
        return f"{status}: {text}"

    async def _unmake(self) -> str:
        return await self._delete(self._documents())

    async def _revoked(self) -> str:
        while True:
            left = await self._sandbox.cluster.client.list(ASSIGNED_IDENTITIES, "default")
            if not any(each.spec.pod in {TRUSTED, STRANGER} for each in left):
                return "gone"
            await asyncio.sleep(POLL_SECONDS)

    async def _untouched(self) -> str:
        azure = self._sandbox.azure
        if azure.arm.calls or azure.imds.token_calls:
            raise DemoError(f"ARM was called: {azure.arm.calls[:3]}; IMDS: {azure.imds.token_calls[:3]}")
        exchanged = [call for call in azure.aad.calls if call.proof == "federated"]
        return f"ARM 0, IMDS 0; AAD exchanged {len(exchanged)} of {len(self._refusals()) + len(exchanged)} assertions"

    def _refusals(self) -> list[AadCall]:
        return [call for call in self._sandbox.azure.aad.calls if call.error and call.client_id == DEMO_CLIENT_ID]

    async def _ask(self, name: str) -> tuple[int, dict[str, Any]]:
        """Return status and body of a token request from the pod's address and, if it has one, network namespace."""
        pod = await self._sandbox.cluster.client.get(PODS, "default", name)
        url = self._sandbox.metadata_url(pod.spec.node_name)
        return await asyncio.to_thread(
            self._sandbox.network.call_in_pod, pod.metadata.uid, lambda: _asked(url, pod.status.pod_ip)
        )

    def _documents(self) -> list[dict[str, Any]]:
        spec = {
            "type": int(IdentityType.FEDERATED),
            "clientID": DEMO_CLIENT_ID,
            "tenantID": self._sandbox.azure.directory.tenant_id,
        }
        documents = [
            _document("aadpodidentity.k8s.io/v1", "AzureIdentity", TRUSTED, spec=spec),
            _document(
                "aadpodidentity.k8s.io/v1",
                "AzureIdentityBinding",
                TRUSTED,
                spec={"azureIdentity": TRUSTED, "selector": SELECTOR},
            ),
        ]
        for name in (TRUSTED, STRANGER):
            container = {"name": "main", "image": "registry.k8s.io/pause:3.10"}
            documents += [
                _document("v1", "ServiceAccount", name),
                _document("v1", "Pod", name, spec={"serviceAccountName": name, "containers": [container]}),
            ]
            documents[-1]["metadata"]["labels"] = {"aadpodidbinding": SELECTOR}
        return documents


def _document(version: str, kind: str, name: str, **parts: Any) -> dict[str, Any]:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": "default"}, **parts}


def _asked(url: str, source: str) -> tuple[int, dict[str, Any]]:
    """Return status and body of a token request with the source address *source*. Block."""
    query = urlencode({"api-version": "2018-02-01", "resource": RESOURCE})
    where = urlsplit(url)
    connection = http.client.HTTPConnection(
        where.hostname or "", where.port, timeout=STEP_SECONDS, source_address=(source, 0)
    )
    try:
        connection.request("GET", f"/metadata/identity/oauth2/token?{query}", headers={"Metadata": "true"})
        response = connection.getresponse()
        body = response.read()
    finally:
        connection.close()
    try:
        read = json.loads(body)
    except ValueError:
        read = None
    return response.status, read if isinstance(read, dict) else {"body": body.decode(errors="replace")}


def _counted(refusals: list[AadCall]) -> str:
    numbers = sorted({f"AADSTS{call.error}" for call in refusals})
    return f"{len(refusals)} refusals ({', '.join(numbers)})"
