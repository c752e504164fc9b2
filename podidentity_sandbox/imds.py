"""The Instance Metadata Service of the sandbox: tokens for the identities of the requesting VM, and instance data.

It follows Azure's documentation and recorded responses: rules for headers, parameters, error bodies, and for token
requests the limits of 20 a second and 5 concurrent ones. It returns a token only for an identity that ARM has attached
to the VM, after a delay. The peer's address identifies the VM, as on Azure.
"""

import ipaddress
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from typing_extensions import override

from podidentity_sandbox.directory import ManagedIdentity
from podidentity_sandbox.serving import FaultyService, json_response
from podidentity_sandbox.tokens import TOKEN_SECONDS, TokenMint

TOKEN_PATH = "/metadata/identity/oauth2/token"  # noqa: S105 - a path, no secret
INSTANCE_PATH = "/metadata/instance"
API_VERSIONS = (
    "2017-08-01",
    "2017-12-01",
    "2018-02-01",
    "2019-08-01",
    "2020-06-01",
    "2021-02-01",
    "2021-12-13",
    "2023-07-01",
)
NEWEST_VERSIONS = list(reversed(API_VERSIONS[-3:]))
RATE_PER_SECOND = 20
CONCURRENT_MAX = 5
SELECTORS = {
    "client_id": "client_id",
    "object_id": "object_id",
    "msi_res_id": "resource_id",
    "mi_res_id": "resource_id",
}


@dataclass(frozen=True, slots=True)
class HostIdentities:
    """The identities for which the requesting VM can get tokens now."""

    user_assigned: tuple[ManagedIdentity, ...] = ()
    system_assigned: ManagedIdentity | None = None


@dataclass(frozen=True, slots=True)
class ImdsVm:
    """One VM: the source addresses of its requests, its identities and its instance data."""

    name: str
    networks: tuple[ipaddress.IPv4Network, ...]
    identities: Callable[[], HostIdentities]
    compute: Mapping[str, str] = field(default_factory=dict)
    port: int = 0
    """The port at which IMDS serves only this VM, if source addresses are equal; 0: any."""


@dataclass(slots=True)
class ImdsCall:
    """One request and its response."""

    host: str
    path: str
    query: Mapping[str, str]
    status: int = 0
    """0 until the response is determined."""


class Imds(FaultyService):
    """The emulator. *clock* gives Unix seconds, *monotonic* measures."""

    conditions = ("guest-proxy",)

    def __init__(
        self,
        mint: TokenMint,
        *,
        token_seconds: float = TOKEN_SECONDS,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self.calls: list[ImdsCall] = []
        self.hosts: list[ImdsVm] = []
        self.limited = True
        """Whether Azure's limits of requests apply."""
        self.token_seconds = token_seconds
        self._mint = mint
        self._clock = clock
        self._monotonic = monotonic
        self._cached: dict[tuple[str, str, str], tuple[str, float]] = {}
        self._recent: dict[str, list[float]] = {}
        self._running: dict[str, int] = {}

    @property
    def token_calls(self) -> list[ImdsCall]:
        """Return the requests to the token path, with any response."""
        return [call for call in self.calls if call.path == TOKEN_PATH]

    async def start_on_loopback(self, identities: Callable[[], HostIdentities]) -> None:
        """Start as the IMDS of one VM with source addresses anywhere on loopback. For tests."""
        self.hosts.append(ImdsVm("vm", (ipaddress.IPv4Network("127.0.0.0/8"),), identities))
        await self.start()

    @override
    async def respond(self, request: web.BaseRequest) -> web.StreamResponse:
        host = self._host_of(request)
        name = host.name if host else ""
        call = ImdsCall(name, request.path, dict(request.rel_url.query))
        self.calls.append(call)
        if self.condition:
            call.status = 403
            return web.Response(status=403)
        limited = self.limited and request.path == TOKEN_PATH
        if limited and not self._enter(name):
            response: web.StreamResponse = _refusal(429, "too_many_requests", "Too many requests", {"Retry-After": "1"})
        else:
            try:
                response = await super().respond(request)
            finally:
                if limited:
                    self._running[name] -= 1
        call.status = response.status
        response.headers["Server"] = "IMDS/150.870.65.1854"
        response.headers["x-ms-request-id"] = str(uuid.uuid4())
        return response

    @override
    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Return the response to one request by IMDS's rules."""
        host = self._host_of(request)
        if host is None:
            return _refusal(401, "unknown_source", f"Unknown Source {request.remote}")
        refusal = _refused_before_routing(request)
        if refusal is not None:
            return refusal
        if request.path == TOKEN_PATH:
            return self._token(host, request)
        document = _documents(host).get(request.path)
        return json_response(document) if document is not None else _instance(host, request)

    def _token(self, host: ImdsVm, request: web.BaseRequest) -> web.Response:
        if request.method != "GET":
            return _refusal(405, "method_not_allowed", "Method not allowed", {"Allow": "GET"})
        query = request.rel_url.query
        resource = query.get("resource", "")
        if not resource:
            return _refusal(400, "invalid_request", "Required query variable 'resource' is missing")
        selectors = [(name, query[name]) for name in SELECTORS if name in query]
        if len(selectors) > 1:
            return _refusal(400, "invalid_request", "client_id, object_id and msi_res_id are mutually exclusive")
        identity = _choose(host.identities(), *selectors[0]) if selectors else _default(host.identities())
        if isinstance(identity, str):
            return _refusal(400, "invalid_request", identity)
        document = self._document(identity, resource, query.get("xms_cc", ""), query.get("bypass_cache") == "true")
        if selectors:
            document[selectors[0][0]] = selectors[0][1]
        return json_response(document)

    def _document(
        self, identity: ManagedIdentity, resource: str, capabilities: str, force_refresh: bool
    ) -> dict[str, str]:
        """Return the body of a token response. A token is reused until half its lifetime is over, as on Azure."""
        now = self._clock()
        key = (identity.client_id, resource, capabilities)
        token, expires = self._cached.get(key, ("", 0.0))
        if force_refresh or expires - now < self.token_seconds / 2:
            expires = float(int(now) + int(self.token_seconds))
            token = self._mint.mint(
                audience=resource,
                client_id=identity.client_id,
                object_id=identity.object_id,
                tenant_id=identity.tenant_id,
                resource_id=identity.resource_id,
                seconds=self.token_seconds,
                extra={"xms_cc": capabilities.split(",")} if capabilities else None,
            )
            self._cached[key] = (token, expires)
        left = str(int(expires - now))
        return {
            "access_token": token,
            "client_id": identity.client_id,
            "expires_in": left,
            "expires_on": str(int(expires)),
            "ext_expires_in": left,
            "not_before": str(int(expires - self.token_seconds) - 300),
            "resource": resource,
            "token_type": "Bearer",
        }

    def _host_of(self, request: web.BaseRequest) -> ImdsVm | None:
        address = ipaddress.IPv4Address(request.remote or "0.0.0.0")  # noqa: S104 - the address that no host has
        port = request.transport.get_extra_info("sockname")[1] if request.transport is not None else 0
        return next(
            (
                host
                for host in self.hosts
                if host.port in {0, port} and any(address in network for network in host.networks)
            ),
            None,
        )

    def _enter(self, host: str) -> bool:
        """Return whether the VM is within its limits; if so, count one more running request."""
        now = self._monotonic()
        recent = self._recent[host] = [at for at in self._recent.get(host, ()) if now - at < 1.0]
        if len(recent) >= RATE_PER_SECOND or self._running.get(host, 0) >= CONCURRENT_MAX:
            return False
        recent.append(now)
        self._running[host] = self._running.get(host, 0) + 1
        return True


def _documents(host: ImdsVm) -> dict[str, dict[str, Any]]:
    """Return the documents other than tokens, by path."""
    tenant = next((identity.tenant_id for identity in host.identities().user_assigned), "")
    return {
        "/metadata/versions": {"apiVersions": list(API_VERSIONS)},
        "/metadata/identity/info": {"tenantId": tenant},
    }


def _instance(host: ImdsVm, request: web.BaseRequest) -> web.Response:
    """Return a part of the instance data: JSON, or with format=text the list of its members or its value."""
    names = request.path.removeprefix(INSTANCE_PATH).strip("/")
    value: Any = {"compute": dict(host.compute), "network": {"interface": []}}
    if not f"{request.path}/".startswith(f"{INSTANCE_PATH}/"):
        return json_response({"error": "Not found"}, status=404)
    for name in names.split("/") if names else ():
        value = value.get(name) if isinstance(value, dict) else None
        if value is None:
            return json_response({"error": "Not found"}, status=404)
    as_text = request.rel_url.query.get("format", "json").lower() == "text"
    if isinstance(value, dict | list):
        return web.Response(text=_listed(value)) if as_text else json_response(value)
    if not as_text:
        return json_response({"error": "Bad request. A leaf node is available only with format=text"}, status=400)
    return web.Response(text=str(value))


def _listed(node: Mapping[str, Any] | list[Any]) -> str:
    """Return the names of the members, one a line, those of objects and lists with a slash."""
    members = node.items() if isinstance(node, Mapping) else enumerate(node)
    return "\n".join(f"{name}/" if isinstance(value, dict | list) else str(name) for name, value in members)


def _refused_before_routing(request: web.BaseRequest) -> web.Response | None:
    """Check what IMDS checks on every path: its header, no proxy, no repeated parameter, the api-version."""
    if request.headers.get("Metadata", "").lower() != "true":
        return _refusal(400, "invalid_request", "Required metadata header not specified")
    if "X-Forwarded-For" in request.headers:
        return _refusal(400, "invalid_request", "Requests with the header X-Forwarded-For are not served")
    query = request.rel_url.query
    if len(set(query)) != len(query):
        return _refusal(400, "invalid_request", "A query parameter is given more than once")
    if request.path != "/metadata/versions" and query.get("api-version") not in API_VERSIONS:
        return json_response(
            {
                "error": "Bad request. api-version is invalid or was not specified in the request. "
                "For more information refer to aka.ms/azureimds",
                "newest-versions": NEWEST_VERSIONS,
            },
            status=400,
        )
    return None


def _choose(identities: HostIdentities, parameter: str, value: str) -> ManagedIdentity | str:
    attribute = SELECTORS[parameter]
    candidates = identities.user_assigned
    if identities.system_assigned is not None and attribute != "resource_id":
        candidates += (identities.system_assigned,)
    for identity in candidates:
        if getattr(identity, attribute).lower() == value.lower():
            return identity
    return "Identity not found"


def _default(identities: HostIdentities) -> ManagedIdentity | str:
    if identities.system_assigned is not None:
        return identities.system_assigned
    if len(identities.user_assigned) == 1:
        return identities.user_assigned[0]
    if identities.user_assigned:
        return (
            "Multiple user assigned identities exist, please specify the clientId / resourceId of the identity "
            "in the token request"
        )
    return "Identity not found"


def _refusal(status: int, error: str, description: str, headers: Mapping[str, str] | None = None) -> web.Response:
    return json_response({"error": error, "error_description": description}, status=status, headers=headers)
