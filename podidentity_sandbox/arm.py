"""Azure Resource Manager of the sandbox, as far as compute goes: VMs and scale sets, read and patched, over TLS.

Long-running operations with polling, etags, throttling, roles, and the two errors by which Azure names identities that
cannot be assigned. It satisfies the real azure-mgmt-compute client. `machines` holds the rules of the identity section.
"""

import json
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from typing_extensions import override

from podidentity_sandbox.directory import Directory, ManagedIdentity
from podidentity_sandbox.imds import HostIdentities
from podidentity_sandbox.machines import SYSTEM, ArmRefusalError, Machine, Operation, merge, no_such_identity
from podidentity_sandbox.serving import HttpService, json_response
from podidentity_sandbox.tokens import InvalidTokenError, TokenMint

AUDIENCES = ("https://management.azure.com", "https://management.core.windows.net")
KINDS = ("virtualMachines", "virtualMachineScaleSets")
READERS = ("Reader", "Contributor", "Owner")
WRITERS = ("Contributor", "Owner")
BODY_MAX = 4 << 20  # ARM's own limit

_COLLECTION = re.compile(
    r"/subscriptions/(?P<subscription>[^/]+)(?:/resourceGroups/(?P<group>[^/]+))?"
    r"/providers/Microsoft\.Compute/(?P<kind>virtualMachines|virtualMachineScaleSets)(?:/(?P<name>[^/]+))?/?",
    re.IGNORECASE,
)
_OPERATION = re.compile(
    r"/subscriptions/[^/]+/providers/Microsoft\.Compute/locations/[^/]+/operations/(?P<name>[^/]+)/?", re.IGNORECASE
)


@dataclass(slots=True)
class ArmCall:
    """One request and its response. *at* is by the emulator's monotonic clock."""

    method: str
    path: str
    at: float
    body: Any = None
    status: int = 0
    """0 until the response is determined."""
    caller: str = ""
    """The object id in the caller's token."""
    code: str = ""
    """The error's code, when it is one."""


@dataclass(slots=True)
class Marked:
    """Identities that cannot be put on a machine: code of the refusal -> resource ids, lower-cased."""

    unauthorized: set[str] = field(default_factory=set)
    """Answered with LinkedAuthorizationFailed."""
    failing: set[str] = field(default_factory=set)
    """Answered with FailedIdentityOperation."""


class Arm(HttpService):
    """The emulator. *clock* measures seconds for operations and for the lag of IMDS."""

    def __init__(
        self,
        directory: Directory,
        mint: TokenMint,
        *,
        audiences: Iterable[str] = AUDIENCES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self.directory = directory
        self.calls: list[ArmCall] = []
        self.marked = Marked()
        self.lag_seconds = 0.0
        """How long IMDS does not yet know an identity that an operation has put on a machine."""
        self.etags = True
        """Whether responses have an etag and If-Match is evaluated, which not every cloud supports."""
        self._mint = mint
        self._audiences = {audience.rstrip("/").lower() for audience in audiences}
        self._clock = clock
        self._machines: dict[str, Machine] = {}
        self._operations: dict[str, Operation] = {}

    def add_vm(self, resource_id: str, **attributes: Any) -> Machine:
        """Create a VM; *attributes* as of Machine."""
        return self._add(resource_id, "virtualMachines", attributes)

    def add_vmss(self, resource_id: str, **attributes: Any) -> Machine:
        """Create a scale set; *attributes* as of Machine."""
        return self._add(resource_id, "virtualMachineScaleSets", attributes)

    def remove(self, resource_id: str) -> None:
        """Remove the VM or scale set."""
        del self._machines[resource_id.lower()]

    def vm(self, resource_id: str) -> Machine:
        """Return the VM or scale set with this resource id, letter case aside. Raise KeyError."""
        return self._machines[resource_id.lower()]

    def find(self, resource_id: str) -> Machine | None:
        """Return the machine as `vm` does, or None."""
        return self._machines.get(resource_id.lower())

    def identities_seen_by_imds(self, resource_id: str) -> HostIdentities:
        """Return the identities of this machine for IMDS: the result of operations that ended at least `lag_seconds`
        ago.
        """
        machine = self._machines.get(resource_id.lower())
        if machine is None:
            return HostIdentities()
        machine.complete_operation()
        seen = self._clock() - self.lag_seconds
        user_assigned: list[ManagedIdentity] = []
        for key, since in machine.attached_at.items():
            identity = self.directory.identity(key)
            if identity is not None and since <= seen:
                user_assigned.append(identity)
        return HostIdentities(tuple(user_assigned), machine.system_assigned if SYSTEM in machine.types else None)

    def writes(self, resource_id: str = "") -> list[ArmCall]:
        """Return the PATCH requests, of one machine or of all."""
        wanted = resource_id.lower()
        return [call for call in self.calls if call.method == "PATCH" and call.path.lower().startswith(wanted)]

    def reads(self, resource_id: str = "") -> list[ArmCall]:
        """Return the GET requests of machines, of one or of all, without those that poll operations."""
        wanted = resource_id.lower()
        return [
            call
            for call in self.calls
            if call.method == "GET" and _COLLECTION.fullmatch(call.path) and call.path.lower().startswith(wanted)
        ]

    @override
    async def respond(self, request: web.BaseRequest) -> web.StreamResponse:
        """Record the call, also one that gets a fault instead of a response."""
        call = ArmCall(request.method, request.path, self._clock())
        self.calls.append(call)
        raw = await request.read()
        try:
            call.body = json.loads(raw) if raw else None
        except ValueError:
            call.body = raw  # kept as received; its reader requires an object
        response = await self.faults.apply(request) or self._answered(request, call)
        call.status = response.status
        return response

    def _answered(self, request: web.BaseRequest, call: ArmCall) -> web.Response:
        try:
            call.caller = self._authenticated(request)
            return self._route(request, call)
        except ArmRefusalError as refusal:
            call.code = refusal.code
            headers = {"WWW-Authenticate": 'Bearer error="invalid_token"'} if refusal.status == 401 else None
            return json_response(refusal.document(), status=refusal.status, headers=headers)

    def _authenticated(self, request: web.BaseRequest) -> str:
        """Return the caller's object id. Raise ArmRefusalError (401)."""
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise ArmRefusalError(401, "AuthenticationFailed", "Authentication failed. No bearer token was given.")
        try:
            claims = self._mint.verify(token)
        except InvalidTokenError as wrong:
            raise ArmRefusalError(401, "InvalidAuthenticationToken", f"Authentication failed: {wrong}.") from wrong
        if str(claims["aud"]).rstrip("/").lower() not in self._audiences:
            raise ArmRefusalError(
                401,
                "InvalidAuthenticationTokenAudience",
                f"The access token has been obtained for the wrong audience {str(claims['aud'])[:200]!r}.",
            )
        return str(claims["oid"])

    def _route(self, request: web.BaseRequest, call: ArmCall) -> web.Response:
        if not request.rel_url.query.get("api-version"):
            raise ArmRefusalError(
                400, "MissingApiVersionParameter", "The api-version query parameter (?api-version=) is required."
            )
        operation = _OPERATION.fullmatch(request.path)
        if operation and request.method == "GET":
            return self._polled(operation["name"])
        target = _COLLECTION.fullmatch(request.path)
        if target is None:
            raise ArmRefusalError(404, "InvalidResourceType", "The resource type could not be found.")
        if request.method not in {"GET", "PATCH"} or (request.method == "PATCH" and not target["name"]):
            raise ArmRefusalError(405, "MethodNotAllowed", f"{request.method} is not served here.")
        self._authorize(call, "read" if request.method == "GET" else "write", target["kind"])
        if not target["name"]:
            return self._listed(target)
        machine = self._machines.get(request.path.rstrip("/").lower())
        if machine is None:
            raise ArmRefusalError(
                404,
                "ResourceNotFound",
                f"The Resource 'Microsoft.Compute/{target['kind']}/{target['name']}' under resource group "
                f"'{target['group']}' was not found.",
            )
        machine.complete_operation()
        if request.method == "GET":
            return self._shown(machine)
        return self._patched(machine, request, call)

    def _authorize(self, call: ArmCall, action: str, kind: str) -> None:
        roles = READERS if action == "read" else WRITERS
        if not self.directory.may(call.caller, roles):
            raise ArmRefusalError(
                403,
                "AuthorizationFailed",
                f"The client with object id '{call.caller}' does not have authorization to perform action "
                f"'Microsoft.Compute/{kind}/{action}' over scope '{call.path}'.",
            )

    def _listed(self, target: re.Match[str]) -> web.Response:
        group = f"/resourcegroups/{target['group'].lower()}/" if target["group"] else ""
        prefix = f"/subscriptions/{target['subscription'].lower()}{group or '/'}"
        kind = target["kind"].lower()
        found = [
            self._document(machine)
            for key, machine in sorted(self._machines.items())
            if key.startswith(prefix) and machine.kind.lower() == kind
        ]
        return json_response({"value": found})

    def _shown(self, machine: Machine) -> web.Response:
        return json_response(self._document(machine), headers={"ETag": machine.etag} if self.etags else None)

    def _document(self, machine: Machine) -> dict[str, Any]:
        document = machine.document()
        if not self.etags:
            del document["etag"]
        return document

    def _patched(self, machine: Machine, request: web.BaseRequest, call: ArmCall) -> web.Response:
        expected = request.headers.get("If-Match", "*")
        if self.etags and expected not in {"*", machine.etag}:
            raise ArmRefusalError(
                412, "PreconditionFailed", f"The etag {expected[:100]} given does not match the resource's."
            )
        if machine.updating:
            raise ArmRefusalError(
                409, "Conflict", "The request failed due to conflict with a concurrent request on the resource."
            )
        asked = call.body.get("identity") if isinstance(call.body, dict) else None
        if not isinstance(asked, dict):
            return self._shown(machine)  # a PATCH of nothing that we hold
        self._refuse_marked(machine, call, asked)
        operation = machine.update(merge(machine, asked, self.directory))
        self._operations[operation.name] = operation
        status_url = (
            f"{self.scheme}://{request.host}/subscriptions/{machine.resource_id.split('/')[2]}/providers/"
            f"Microsoft.Compute/locations/{machine.location}/operations/{operation.name}?api-version=2024-11-01"
        )
        headers = {"Azure-AsyncOperation": status_url, "Location": f"{status_url}&monitor=true"}
        if self.etags:
            headers["ETag"] = machine.etag
        return json_response(self._document(machine), status=200, headers=headers)

    def _refuse_marked(self, machine: Machine, call: ArmCall, asked: dict[str, Any]) -> None:
        entries = asked.get("userAssignedIdentities") or {}
        wanted = [resource_id for resource_id, value in entries.items() if value is not None]
        refused = [resource_id for resource_id in wanted if resource_id.lower() in self.marked.unauthorized]
        if refused:
            raise ArmRefusalError(
                403,
                "LinkedAuthorizationFailed",
                f"The client with object id '{call.caller}' has permission to perform action "
                f"'Microsoft.Compute/{machine.kind}/write' on scope '{machine.resource_id}'; however, it does not have "
                "permission to perform action 'Microsoft.ManagedIdentity/userAssignedIdentities/assign/action' on the "
                f"linked scope(s) '{','.join(refused)}' or the linked scope(s) are invalid.",
            )
        failing = next((resource_id for resource_id in wanted if resource_id.lower() in self.marked.failing), None)
        if failing is not None:
            raise no_such_identity(machine, failing)

    def _polled(self, name: str) -> web.Response:
        operation = self._operations.get(name)
        if operation is None:
            raise ArmRefusalError(404, "NotFound", "The operation is not known.")
        if self._clock() < operation.ends:
            return json_response({"name": name, "status": "InProgress"})
        if operation.error is not None:
            return json_response({"name": name, "status": "Failed", **operation.error.document()})
        return json_response({"name": name, "status": "Succeeded"})

    def _add(self, resource_id: str, kind: str, attributes: dict[str, Any]) -> Machine:
        machine = Machine(resource_id=resource_id, kind=kind, clock=self._clock, **attributes)
        if machine.system_assigned is not None:
            machine.types |= {SYSTEM}
        self._machines[resource_id.lower()] = machine
        return machine
