"""Azure Active Directory of the sandbox, over TLS: tokens for service principals, and the discovery documents.

It accepts client credentials with a secret, a signed assertion or a federated one, on the v2.0 endpoint, and serves
instance discovery and the OpenID configuration to azure-identity and MSAL. Errors have AADSTS numbers. A user-assigned
identity is a client without secret and certificate.

`SignInService` is its base and that of the token proxy: it records each request, and returns the refusals of both in
Entra ID's form.
"""

import abc
import json
import re
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from typing_extensions import override

from podidentity_sandbox import federation
from podidentity_sandbox.directory import (
    AppRegistration,
    Directory,
    FederatedCredential,
    ManagedIdentity,
    ServicePrincipal,
)
from podidentity_sandbox.federation import IssuerKeys
from podidentity_sandbox.proofs import ASSERTION_TYPE, NotProvenError, RefusedError, is_by_another, prove
from podidentity_sandbox.serving import FaultyService, json_response
from podidentity_sandbox.tokens import TokenMint

PRINCIPAL_TOKEN_SECONDS = 3600  # a service principal's token lives about an hour
LONG_LIVED_SECONDS = 86_400  # one that can be revoked at any moment (capability CP1) or a managed identity's: a day

_TOKEN = re.compile(
    r"/(?:(?P<adfs>adfs)/oauth2/token|(?P<tenant>(?!adfs/)[^/]+)/oauth2(?:/v2\.0)?/token/?)", re.IGNORECASE
)
_OPENID = re.compile(r"/(?P<tenant>[^/]+)(?:/v2\.0)?/\.well-known/openid-configuration", re.IGNORECASE)
_KEYS = re.compile(r"/[^/]+/discovery(?:/v2\.0)?/keys", re.IGNORECASE)
_INSTANCE = "/common/discovery/instance"


@dataclass(slots=True)
class SignInCall:
    """One request, without its secret or assertion, and its response."""

    path: str
    method: str
    client_id: str = ""
    scope: str = ""
    tenant: str = ""
    proof: str = ""
    """The proof that the application sent: `secret`, `federated`, or the algorithm of its assertion."""
    server_name: str = ""
    """The TLS server name of a request to the token proxy, as are *subject* and *pod* of its assertion."""
    subject: str = ""
    pod: str = ""
    status: int = 0
    """0 until the response is determined."""
    error: int = 0
    """The AADSTS number of a refusal; 0 if there is none."""


class SignInService(FaultyService):
    """A service that records its calls. *clock* gives Unix seconds, for the bodies of refusals."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        super().__init__()
        self.calls: list[SignInCall] = []
        self._clock = clock

    @override
    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Record one request, and return its response."""
        call = SignInCall(request.path, request.method)
        self.calls.append(call)
        try:
            response = await self.response_to(request, call)
        except RefusedError as refused:
            call.error = refused.number
            response = self._refusal(refused)
        call.status = response.status
        return response

    @abc.abstractmethod
    async def response_to(self, request: web.BaseRequest, call: SignInCall) -> web.Response:
        """Return the response to one request, and complete its record. Raise RefusedError."""

    def _refusal(self, refused: RefusedError) -> web.Response:
        """Return Entra ID's form of a refusal."""
        trace, correlation = str(uuid.uuid4()), str(uuid.uuid4())
        moment = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(self._clock()))
        return json_response(
            {
                "error": refused.error,
                "error_description": f"AADSTS{refused.number}: {refused} Trace ID: {trace} "
                f"Correlation ID: {correlation} Timestamp: {moment}",
                "error_codes": [refused.number],
                "timestamp": moment,
                "trace_id": trace,
                "correlation_id": correlation,
            },
            status=refused.status,
        )


class Aad(SignInService):
    """The emulator. *clock* gives Unix seconds, for error bodies."""

    conditions = ("no-credential",)

    def __init__(self, directory: Directory, mint: TokenMint, *, clock: Callable[[], float] = time.time) -> None:
        super().__init__(clock=clock)
        self.token_seconds: float = PRINCIPAL_TOKEN_SECONDS
        self.issuers = IssuerKeys()
        self._directory = directory
        self._mint = mint

    @override
    async def response_to(self, request: web.BaseRequest, call: SignInCall) -> web.Response:
        """Return the response of login.microsoftonline.com."""
        token = _TOKEN.fullmatch(request.path)
        if token:
            if request.method != "POST":
                raise RefusedError("invalid_request", 900561, "The endpoint only accepts POST requests.", status=405)
            form = {name: str(value) for name, value in (await request.post()).items()}
            call.client_id = form.get("client_id", "")
            call.scope = form.get("scope", "") or form.get("resource", "")
            call.tenant = token["adfs"] or token["tenant"]
            principal = self.principal(call.tenant, form)
            call.proof = await self._proof(request, principal, form)
            return self.token(principal, form)
        if request.method != "GET":
            raise RefusedError("invalid_request", 900561, "The endpoint only accepts GET requests.", status=405)
        document = self._document(request)
        if document is None:
            raise RefusedError("not_found", 90002, "There is nothing at this address.", status=404)
        return json_response(document)

    def _document(self, request: web.BaseRequest) -> dict[str, Any] | None:
        """Return a discovery document; None if there is none at the path."""
        base = f"{self.scheme}://{request.host}"
        openid = _OPENID.fullmatch(request.path)
        if openid:
            tenant = openid["tenant"]
            return {
                "issuer": f"{base}/{tenant}/v2.0",
                "authorization_endpoint": f"{base}/{tenant}/oauth2/v2.0/authorize",
                "token_endpoint": f"{base}/{tenant}/oauth2/v2.0/token",
                "jwks_uri": f"{base}/{tenant}/discovery/v2.0/keys",
                "token_endpoint_auth_methods_supported": ["client_secret_post"],
                "response_types_supported": ["code"],
                "subject_types_supported": ["pairwise"],
                "id_token_signing_alg_values_supported": ["RS256"],
            }
        if _KEYS.fullmatch(request.path):
            return self._mint.key.key_set()
        if request.path == _INSTANCE:
            host = request.host
            discovery = f"{base}/{self._directory.tenant_id}/v2.0/.well-known/openid-configuration"
            return {
                "tenant_discovery_endpoint": discovery,
                "api-version": "1.1",
                "metadata": [{"preferred_network": host, "preferred_cache": host, "aliases": [host]}],
            }
        return None

    def token(self, principal: ServicePrincipal | ManagedIdentity, form: Mapping[str, str]) -> web.Response:
        """Return a token of a principal that has proved itself. Raise RefusedError."""
        resource, capabilities = _resource(form), _capabilities(form.get("claims", ""))
        resource_id = principal.resource_id if isinstance(principal, ManagedIdentity) else ""
        long_lived = bool(resource_id) or any(capability.lower() == "cp1" for capability in capabilities)
        seconds = int(LONG_LIVED_SECONDS if long_lived else self.token_seconds)
        token = self._mint.mint(
            audience=resource,
            client_id=principal.client_id,
            object_id=principal.object_id,
            tenant_id=principal.tenant_id,
            resource_id=resource_id,
            seconds=seconds,
            extra={"xms_cc": capabilities} if capabilities else None,
        )
        return json_response(
            {"token_type": "Bearer", "expires_in": seconds, "ext_expires_in": seconds, "access_token": token}
        )

    async def _proof(
        self, request: web.BaseRequest, principal: ServicePrincipal | ManagedIdentity, form: Mapping[str, str]
    ) -> str:
        """Return the kind of proof that the client sent. Raise RefusedError."""
        client_id, now, assertion = principal.client_id, self._clock(), form.get("client_assertion", "")
        application = self._directory.application(client_id) or AppRegistration(client_id)
        if assertion and form.get("client_assertion_type") != ASSERTION_TYPE:
            raise NotProvenError(50027, "The client assertion's type is not supported.")
        if not is_by_another(assertion, client_id):
            return prove(application, form, f"{self.scheme}://{request.host}{request.path}", now)
        presented = federation.read_assertion(assertion)
        name = principal.resource_id.rpartition("/")[2] if isinstance(principal, ManagedIdentity) else ""
        credentials = self._directory.federated(client_id, now)
        if self.condition == "no-credential":
            credentials = [FederatedCredential(presented.issuer, subject="", audience="")]
        federation.match(presented, f"'{client_id}'({name})", credentials)
        try:
            await self.issuers.check_signature(presented)
        except federation.IssuerUnreachableError as wrong:
            raise RefusedError("invalid_request", 50166, "Request to External OIDC endpoint failed.") from wrong
        federation.check_times(presented, now)
        return "federated"

    def principal(self, tenant: str, form: Mapping[str, str]) -> ServicePrincipal | ManagedIdentity:
        """Return the client's principal. Raise RefusedError."""
        if not self._directory.tenant(tenant):
            raise RefusedError("invalid_request", 90002, f"Tenant {tenant[:64]!r} not found.")
        if form.get("grant_type") != "client_credentials":
            raise RefusedError("unsupported_grant_type", 70003, "Only client_credentials is served here.")
        client_id = form.get("client_id", "")
        principal = self._directory.principal(client_id, tenant) or self._directory.managed(client_id, tenant)
        if principal is None:
            sentence = f"Application with identifier {client_id[:64]!r} was not found in the directory {tenant[:64]!r}."
            raise RefusedError("unauthorized_client", 700016, sentence)
        return principal


def _resource(form: Mapping[str, str]) -> str:
    """Return the resource of the token. Raise RefusedError."""
    resource = form.get("resource", "") or form.get("scope", "").removesuffix("/.default")
    if not resource or ("scope" in form and not form["scope"].endswith("/.default")):
        raise RefusedError("invalid_scope", 1002012, "A scope here must end in /.default.")
    return resource


def _capabilities(claims: str) -> list[str]:
    """Return the client's capabilities in a claims request. Raise RefusedError for an invalid one."""
    if not claims:
        return []
    try:
        return [str(value) for value in json.loads(claims)["access_token"]["xms_cc"]["values"]]
    except (KeyError, TypeError, ValueError) as wrong:
        raise RefusedError("invalid_request", 50116, "The claims are not a claims request.") from wrong
