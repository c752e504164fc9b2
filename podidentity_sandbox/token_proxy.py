"""AKS's token proxy for identity bindings in the sandbox, over TLS.

It verifies, in this order: the TLS server name, the assertion's audience, signature and times, that the pod of the
assertion exists with its uid, the identity binding, and the service account's permission, by a SubjectAccessReview at
the API server. Then it returns Entra ID's response for the identity. The proxy exchanges an assertion of its own
issuer at Entra ID, for which AKS creates one federated credential with the first identity binding: `bind` does the
same.

The form and the checks are those of AKS's documentation and of azure-identity's client. AKS does not document the texts
of refusals: those here are guesses with a plausible status, and no test of NMI depends on more than the status, Entra
ID's codes and the words that each text must contain in any case.
"""

import asyncio
import re
import ssl
import time
from collections.abc import Callable, Mapping
from typing import Final

from aiohttp import web
from typing_extensions import override

from podidentity.azure.federation import BINDING_AUDIENCE, BINDING_GROUP, BINDING_VERB, DIRECT_AUDIENCE
from podidentity.kube.client import Client
from podidentity.kube.errors import ApiError, NotFound
from podidentity.resources import PODS
from podidentity_sandbox import federation
from podidentity_sandbox.aad import Aad, SignInCall, SignInService
from podidentity_sandbox.access_review import is_allowed
from podidentity_sandbox.certificates import Authority
from podidentity_sandbox.directory import Directory, FederatedCredential
from podidentity_sandbox.kubeapi.authorization import ACCOUNT_PREFIX, service_account_user
from podidentity_sandbox.kubeapi.statuses import unauthorized
from podidentity_sandbox.proofs import ASSERTION_TYPE, NotProvenError
from podidentity_sandbox.serving import json_response
from podidentity_sandbox.tokens import read_claims

SERVER_NAME: Final = "sandbox.ests.aks"
"""The only TLS server name for which the proxy responds. For any other the API server does."""
OTHER_SERVER_NAME: Final = "another.ests.aks"
PREFIX: Final = "/identity-bindings"
"""A path prefix, so that clients have to keep one."""
ISSUER: Final = "https://ib.oic.sandbox.invalid"
"""The issuer of the proxy's own assertions. Nothing is at this address."""
_TOKEN: Final = re.compile(rf"{PREFIX}/(?P<tenant>[^/]+)/oauth2/v2\.0/token/?")


class _Error(Exception):
    """A request that the proxy refuses itself."""

    def __init__(self, status: int, error: str, sentence: str) -> None:
        self.status = status
        self.error = error
        super().__init__(sentence)


class TokenProxy(SignInService):
    """The emulator. Start it with `serve`, and set *client* to the administrator's client of the API server."""

    conditions = ("unbound", "audience", "server-name", "certificate", "certificate-name")

    def __init__(self, directory: Directory, aad: Aad, *, clock: Callable[[], float] = time.time) -> None:
        super().__init__(clock=clock)
        self.client: Client
        self._directory = directory
        self._aad = aad
        self._bound: set[str] = set()
        self._presents: ssl.SSLContext | None = None
        """The certificate, if it is not the usual one."""
        self._keys = federation.IssuerKeys(lambda url: federation.fetch(self.client.access, url))

    @property
    def proxy_url(self) -> str:
        """The value of AZURE_KUBERNETES_TOKEN_PROXY."""
        return self.url + PREFIX

    async def serve(self, authority: Authority, host: str = "127.0.0.1") -> None:
        """Listen on *host*, an address of loopback, with a certificate for SERVER_NAME only."""
        context = await asyncio.to_thread(authority.server_context, (SERVER_NAME,))
        context.sni_callback = self._greet
        self._authority = authority
        await self.start(host, ssl_context=context)

    @override
    def set_condition(self, condition: str) -> None:
        super().set_condition(condition)
        self._presents = None
        if condition == "certificate":
            self._presents = Authority("another authority").server_context((SERVER_NAME,))
        elif condition == "certificate-name":
            self._presents = self._authority.server_context((OTHER_SERVER_NAME,))
        self.drop_connections()  # a connection keeps the certificate of its start

    def _greet(self, connection: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> None:
        # `_server_name` reads it: an SSLObject of a server does not keep the name that the client sent.
        connection.server_name = name or ""  # type: ignore[attr-defined]
        if self._presents is not None:
            connection.context = self._presents

    def bind(self, client_id: str, *, delay_seconds: float = 0.0) -> None:
        """Create the identity binding. Entra ID knows its federated credential after the delay."""
        self._bound.add(client_id.lower())
        credential = FederatedCredential(ISSUER, client_id.lower(), DIRECT_AUDIENCE, self._clock() + delay_seconds)
        if not any(credential.issuer == ISSUER for credential in self._directory.federated(client_id, float("inf"))):
            self._directory.federate(client_id, credential)

    def unbind(self, client_id: str) -> None:
        """Delete the identity binding. Do nothing if it does not exist."""
        self._bound.discard(client_id.lower())
        self._directory.unfederate(client_id, ISSUER, client_id.lower())

    @override
    async def response_to(self, request: web.BaseRequest, call: SignInCall) -> web.Response:
        """Return the response of the front end of AKS's API server."""
        call.server_name = _server_name(request)
        path = _TOKEN.fullmatch(request.path)
        server_name = OTHER_SERVER_NAME if self.condition == "server-name" else SERVER_NAME
        if call.server_name != server_name or path is None or request.method != "POST":
            return json_response(unauthorized().document(), status=401)
        form = {name: str(value) for name, value in (await request.post()).items()}
        try:
            await self._check(path["tenant"], form, call)
        except _Error as refused:
            return json_response({"error": refused.error, "error_description": str(refused)}, status=refused.status)
        return self._aad.token(self._aad.principal(path["tenant"], form), form)

    async def _check(self, tenant: str, form: Mapping[str, str], call: SignInCall) -> None:
        """Raise an error unless the assertion's service account may use the identity."""
        call.client_id = form.get("client_id", "")
        if form.get("client_assertion_type") != ASSERTION_TYPE:
            raise _Error(400, "invalid_request", "client_assertion_type must be that of a JWT")
        assertion = await self._proven(form.get("client_assertion", ""))
        call.subject = assertion.subject
        call.pod = await self._pod(form["client_assertion"])
        if self.condition == "unbound" or call.client_id.lower() not in self._bound:
            raise _Error(404, "invalid_request", f"identity binding for client id {call.client_id[:64]} not found")
        if not await self._may_use(assertion.subject, call.client_id):
            sentence = f"{assertion.subject} may not {BINDING_VERB} {call.client_id[:64]} of API group {BINDING_GROUP}"
            raise _Error(403, "access_denied", sentence)
        self._aad.principal(tenant, form)
        if not any(
            credential.issuer == ISSUER for credential in self._directory.federated(call.client_id, self._clock())
        ):
            raise NotProvenError(
                700211, f"No matching federated identity record found for presented assertion issuer '{ISSUER}'."
            )

    async def _proven(self, text: str) -> federation.Assertion:
        """Return the assertion of this cluster, which is verified. Raise _Error with 401."""
        try:
            assertion = federation.read_assertion(text)
            audience = "api://another-audience" if self.condition == "audience" else BINDING_AUDIENCE
            if assertion.audiences != (audience,):
                raise _Error(401, "invalid_client", f"the token's audience is not {audience}")
            if assertion.issuer != await federation.issuer_of(self.client.access):
                raise _Error(401, "invalid_client", "the token is not from this cluster's issuer")
            await self._keys.check_signature(assertion)
            federation.check_times(assertion, self._clock())
        except (NotProvenError, federation.IssuerUnreachableError) as wrong:
            raise _Error(401, "invalid_client", f"the token is not valid: {wrong}") from wrong
        return assertion

    async def _pod(self, text: str) -> str:
        """Return the pod of a verified assertion as `namespace/name`. Raise _Error with 401."""
        try:
            claims = read_claims(text)["kubernetes.io"]
            namespace, name, uid = claims["namespace"], claims["pod"]["name"], claims["pod"]["uid"]
        except (KeyError, TypeError) as wrong:
            raise _Error(401, "invalid_client", "the token is not bound to a pod") from wrong
        try:
            pod = await self.client.get(PODS, namespace, name)
        except NotFound:
            pod = None
        if pod is None or pod.metadata.uid != uid:
            raise _Error(401, "invalid_client", "the pod of the token does not exist")
        return f"{namespace}/{name}"

    async def _may_use(self, subject: str, client_id: str) -> bool:
        """Return the API server's decision. Raise _Error if there is none."""
        if not subject.startswith(ACCOUNT_PREFIX):
            return False
        attributes = {"verb": BINDING_VERB, "group": BINDING_GROUP, "resource": client_id}
        try:
            return await is_allowed(self.client, service_account_user(subject), attributes)
        except ApiError as error:
            raise _Error(503, "temporarily_unavailable", "the API server does not decide") from error


def _server_name(request: web.BaseRequest) -> str:
    connection = request.transport.get_extra_info("ssl_object") if request.transport is not None else None
    return str(getattr(connection, "server_name", ""))
