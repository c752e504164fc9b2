"""The demos of federated identities: a pod gets a token by its own service account, without a change to a VM.

The pod sends its request before Azure trusts its service account, and NMI holds the request until Azure does. For
another pod, whose service account Azure does not trust, NMI returns what is missing. ARM gets no call and IMDS no token
request.
"""

import asyncio
import http.client
import json
import time
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

from typing_extensions import override

from podidentity.azure.federation import BINDING_VERB, DIRECT_AUDIENCE
from podidentity.azure.identity_permissions import permission_binding, permission_role
from podidentity.resources import ASSIGNED, PODS, IdentityType
from podidentity_sandbox.aad import SignInCall
from podidentity_sandbox.azure import DEMO_CLIENT_ID
from podidentity_sandbox.demo import POLL_SECONDS, STEP_SECONDS, Action, Demo, DemoError, Document, until
from podidentity_sandbox.probes import response_of
from podidentity_sandbox.sandbox import Sandbox
from podidentity_sandbox.settings import BINDING_FLAGS
from podidentity_sandbox.tokens import read_claims

MAX_HOLD: Final = "--max-hold=12s"
"""A short hold, so that the untrusted pod gets its response within one step."""
DELAY_SECONDS: Final = 2.0
"""The delay until AAD knows a credential; the real AAD takes seconds to minutes."""
RESOURCE: Final = "https://vault.azure.net"
TRUSTED: Final = "federated-demo"
STRANGER: Final = "federated-stranger"
SELECTOR: Final = "federated-demo"
APPLY: Final = "apply an identity of type 3, its binding, two service accounts with a pod each"


class FederatedDemo(Demo):
    """The identity is of type 3. Azure trusts a service account by a federated credential."""

    nmi_flags: Sequence[str] = ("--federated-identities", MAX_HOLD)
    service = "AAD"
    """The service that does not yet trust the first pod at its first request."""
    pods = (TRUSTED, STRANGER)
    statuses = (ASSIGNED,)

    def __init__(self, sandbox: Sandbox) -> None:
        super().__init__(sandbox)
        self._response: Document = {}
        self._missing: Sequence[str] = ()
        """The parts of the response to the other pod."""

    @override
    def actions(self) -> list[Action]:
        return [
            ("start the sandbox, MIC and NMI with --federated-identities", self._start),
            ("look at the node's nat rule", self._rule_present),
            (APPLY, self._apply_all),
            ("the pods run", self._run),
            ("MIC assigns both: AzureAssignedIdentity", self._assigned),
            ("the pod asks before Azure trusts its service account, and is held", self._held),
            ("the token is the identity's", self._claims),
            ("the response to the other pod names the missing credential", self._refused),
            ("delete pods, binding, identity and service accounts", self._delete_all),
            ("MIC revokes both: AzureAssignedIdentity", self._revoked),
            ("no call of ARM, and none of IMDS for a token", self._untouched),
            ("stop NMI: the node's nat table", self._rule_gone),
        ]

    @override
    async def _run(self) -> str:
        return "\n".join([f"{name} {await self._pod_runs(name)}" for name in self.pods])

    async def _held(self) -> str:
        began = time.monotonic()
        request = asyncio.create_task(self._request_token(TRUSTED), name="the pod asks")
        try:
            await until(lambda: request.done() or bool(self._exchanges()))
            if request.done():
                raise DemoError(f"the pod was answered before {self.service} was asked: {request.result()}")
            trust = await self._trust()
            trusted = time.monotonic() - began
            status, self._response = await request
        finally:
            request.cancel()
        if status != 200:
            raise DemoError(f"the pod was answered {status} instead of being held: {self._response}")
        return (
            f"{self._report(trusted)}, known {DELAY_SECONDS:g} s later\n{trust}"
            f"the pod is answered 200 after {time.monotonic() - began:.1f} s"
        )

    def _exchanges(self) -> Sequence[SignInCall]:
        """Return the requests for the identity that NMI exchanges: here those that AAD has refused."""
        return [call for call in self._sandbox.azure.aad.calls if call.error and call.client_id == DEMO_CLIENT_ID]

    async def _trust(self) -> str:
        """Trust the service account of the first pod. Return lines of the report."""
        credential = await self._sandbox.trust(TRUSTED, delay_seconds=DELAY_SECONDS)
        self._missing = (credential.issuer, f"system:serviceaccount:default:{STRANGER}", DIRECT_AUDIENCE)
        return f"issuer {credential.issuer}, subject {credential.subject}, audience {credential.audience}\n"

    def _report(self, seconds: float) -> str:
        """Return the report on the exchanges before the trust, which began after *seconds*."""
        refusals = self._exchanges()
        numbers = ", ".join(sorted({f"AADSTS{call.error}" for call in refusals}))
        return f"AAD: {len(refusals)} refusals ({numbers}); credential added after {seconds:.1f} s"

    async def _claims(self) -> str:
        claims = read_claims(str(self._response["access_token"]))
        shown = {name: claims.get(name) for name in ("appid", "oid", "aud", "xms_mirid")}
        demo = self._sandbox.azure.demo
        wanted = {"appid": DEMO_CLIENT_ID, "oid": demo.object_id, "aud": RESOURCE, "xms_mirid": demo.resource_id}
        if shown != wanted:
            raise DemoError(f"the token has the claims {shown} instead of {wanted}")
        self.lines = [f"{name} {value}" for name, value in shown.items()]
        return "\n".join(self.lines)

    async def _refused(self) -> str:
        status, response = await self._request_token(STRANGER)
        text = str(response.get("error_description", response))
        missing = [part for part in self._missing if part not in text]
        if status == 200 or missing:
            raise DemoError(
                f"the other pod was answered {status} without {', '.join(missing) or 'a refusal'}: {response}"
            )
        return f"{status}: {text}"

    async def _untouched(self) -> str:
        azure = self._sandbox.azure
        if azure.arm.calls or azure.imds.token_calls:
            raise DemoError(f"ARM was called: {azure.arm.calls[:3]}; IMDS: {azure.imds.token_calls[:3]}")
        exchanged = sum(call.proof == "federated" for call in azure.aad.calls)
        return f"ARM 0, IMDS 0; AAD exchanged {exchanged} of {len(self._exchanges()) + exchanged} assertions"

    async def _request_token(self, name: str) -> tuple[int, dict[str, Any]]:
        """Return status and body of a token request from the pod's address and, if it has one, network namespace."""
        pod = await self._sandbox.cluster.client.get(PODS, "default", name)
        url = self._sandbox.metadata_url(pod.spec.node_name)
        return await asyncio.to_thread(
            self._sandbox.network.call_in_pod, pod.metadata.uid, lambda: _token_response(url, pod.status.pod_ip)
        )

    @override
    def _documents(self) -> list[dict[str, Any]]:
        version = "aadpodidentity.k8s.io/v1"
        tenant_id = self._sandbox.azure.directory.tenant_id
        identity = {"type": int(IdentityType.FEDERATED), "clientID": DEMO_CLIENT_ID, "tenantID": tenant_id}
        binding = {"azureIdentity": TRUSTED, "selector": SELECTOR}
        documents = [
            _document(version, "AzureIdentity", TRUSTED, spec=identity),
            _document(version, "AzureIdentityBinding", TRUSTED, spec=binding),
        ]
        for name in self.pods:
            container = {"name": "main", "image": "registry.k8s.io/pause:3.10"}
            documents += [
                _document("v1", "ServiceAccount", name),
                _document("v1", "Pod", name, spec={"serviceAccountName": name, "containers": [container]}),
            ]
            documents[-1]["metadata"]["labels"] = {"aadpodidbinding": SELECTOR}
        return documents


class BindingDemo(FederatedDemo):
    """The demo of AKS identity bindings: unmodified pods use one identity with one federated credential.

    Azure trusts a service account by the identity binding and a permission, which the other pod gets later. NMI uses
    the token proxy, and Entra ID gets no request from it.
    """

    nmi_flags = (*BINDING_FLAGS, MAX_HOLD)
    rbac = True
    service = "the proxy"
    _permitted: Sequence[str] = (TRUSTED,)

    @override
    def actions(self) -> list[Action]:
        return [
            ("start the sandbox, MIC and NMI with --federated-exchange=identityBindings", self._start),
            ("look at the node's nat rule", self._rule_present),
            (f"{APPLY}, and the permission of one", self._apply_all),
            ("the pods run", self._run),
            ("MIC assigns both: AzureAssignedIdentity", self._assigned),
            ("the pod asks before the identity binding exists, and is held", self._held),
            ("the token is the identity's", self._claims),
            ("the response to the other pod names the missing permission", self._refused),
            ("with the permission the other pod gets a token too", self._permit),
            ("delete pods, binding, identity, service accounts and permissions", self._delete_all),
            ("MIC revokes both: AzureAssignedIdentity", self._revoked),
            ("no call of ARM and Entra ID, and none of IMDS for a token", self._untouched),
            ("stop NMI: the node's nat table", self._rule_gone),
        ]

    @override
    def _exchanges(self) -> Sequence[SignInCall]:
        return [call for call in self._sandbox.azure.token_proxy.calls if call.status]

    @override
    async def _trust(self) -> str:
        self._sandbox.azure.token_proxy.bind(DEMO_CLIENT_ID, delay_seconds=DELAY_SECONDS)
        self._missing = (BINDING_VERB,)
        return ""

    @override
    def _report(self, seconds: float) -> str:
        statuses = ", ".join(str(call.status) for call in self._exchanges())
        return f"the token proxy answered {statuses}; binding created after {seconds:.1f} s"

    async def _permit(self) -> str:
        self._permitted = self.pods
        await self._apply([permission_binding(DEMO_CLIENT_ID, "default", STRANGER)])
        while True:
            status, response = await self._request_token(STRANGER)
            if status == 200:
                break
            await asyncio.sleep(POLL_SECONDS)
        credentials = self._sandbox.azure.directory.federated(DEMO_CLIENT_ID, float("inf"))
        if len(credentials) != 1:
            raise DemoError(f"the identity has {len(credentials)} federated credentials instead of one: {response}")
        return "200; the identity has 1 federated credential, for both service accounts"

    @override
    async def _untouched(self) -> str:
        await super()._untouched()
        signed_in = [call for call in self._sandbox.azure.aad.calls if call.client_id == DEMO_CLIENT_ID]
        if signed_in:
            raise DemoError(f"AAD was called: {signed_in[:3]}")
        granted = sum(call.status == 200 for call in self._exchanges())
        return f"ARM 0, IMDS 0, AAD 0; the token proxy granted {granted} of {len(self._exchanges())} exchanges"

    @override
    def _documents(self) -> list[dict[str, Any]]:
        # The objects that `podidctl explain` prints for a pod without the permission.
        bindings = [permission_binding(DEMO_CLIENT_ID, "default", account) for account in self._permitted]
        return [*super()._documents(), permission_role(DEMO_CLIENT_ID), *bindings]


def _document(version: str, kind: str, name: str, **parts: Any) -> dict[str, Any]:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": "default"}, **parts}


def _token_response(url: str, source: str) -> tuple[int, dict[str, Any]]:
    """Return status and body of a token request with the source address *source*. Block."""
    query = urlencode({"api-version": "2018-02-01", "resource": RESOURCE})
    where = urlsplit(url)
    connection = http.client.HTTPConnection(
        where.hostname or "", where.port, timeout=STEP_SECONDS, source_address=(source, 0)
    )
    with response_of(connection, f"/metadata/identity/oauth2/token?{query}", {"Metadata": "true"}) as response:
        body = response.read()
    try:
        read = json.loads(body)
    except ValueError:
        read = None
    return response.status, read if isinstance(read, dict) else {"body": body.decode(errors="replace")}
