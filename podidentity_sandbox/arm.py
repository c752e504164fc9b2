"""Azure Resource Manager of the sandbox, as far as compute goes: VMs and scale sets, read and patched, over TLS.

It also describes its cloud, subscriptions, tenants and resource groups (`arm_catalogue`).

Long-running operations with polling, etags, throttling, roles, and the two errors by which Azure names identities that
cannot be assigned. It satisfies the real azure-mgmt-compute client. `machines` holds the rules of the identity section.
"""

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from typing_extensions import override

from podidentity_sandbox import arm_catalogue
from podidentity_sandbox.directory import Directory, ManagedIdentity
from podidentity_sandbox.imds import HostIdentities
from podidentity_sandbox.machines import SYSTEM, ArmRefusalError, Machine, Operation, merge, no_such_identity
from podidentity_sandbox.public_names import ARM_NAMES
from podidentity_sandbox.serving import HttpService, json_response
from podidentity_sandbox.tokens import InvalidTokenError, TokenMint

AUDIENCES = ("https://management.azure.com", "https://management.core.windows.net")
READERS = ("Reader", "Contributor", "Owner")
WRITERS = ("Contributor", "Owner")
PUBLIC_LOGIN = "https://login.microsoftonline.com"

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
    """The code of the error; empty for other responses."""


@dataclass(slots=True)
class Marked:
    """Identities that cannot be attached to a machine: code of the refusal -> resource ids, lower-cased."""

    unauthorized: set[str] = field(default_factory=set)
    """Answered with LinkedAuthorizationFailed."""
    failing: set[str] = field(default_factory=set)
    """Answered with FailedIdentityOperation."""


class Arm(HttpService):
    """The emulator. *clock* measures seconds for operations and for the lag of IMDS."""

    conditions: Sequence[str] = ("no-role", "no-identity", "no-vm")

    def __init__(
        self,
        directory: Directory,
        mint: TokenMint,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self.directory = directory
        self.calls: list[ArmCall] = []
        self.marked = Marked()
        self.lag_seconds = 0.0
        """The time for which IMDS does not know an identity after an operation has attached it."""
        self.login_url = ""
        """The URL of AAD that clients of this ARM use, except those that request it by its public name."""
        self.etags = True
        """Whether responses have an etag and If-Match is evaluated, which not every cloud supports."""
        self._mint = mint
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
        """Return the VM or scale set with this resource id, in any letter case. Raise KeyError."""
        return self._machines[resource_id.lower()]

    def find(self, resource_id: str) -> Machine | None:
        """Return the machine as `vm` does, or None."""
        return self._machines.get(resource_id.lower())

    def identities_seen_by_imds(self, resource_id: str) -> HostIdentities:
        """Return the machine's identities for IMDS: those of operations that ended at least `lag_seconds` ago."""
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

    def reads(self) -> list[ArmCall]:
        """Return the GET requests of machines, without those that poll operations."""
        return [call for call in self.calls if call.method == "GET" and _COLLECTION.fullmatch(call.path)]

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
        response = await self.faults.apply(request) or self._response_to(request, call)
        call.status = response.status
        return response

    def _response_to(self, request: web.BaseRequest, call: ArmCall) -> web.Response:
        try:
            if request.path.rstrip("/").lower() == arm_catalogue.METADATA_PATH and request.method == "GET":
                return self._metadata(request)
            call.caller = self._authenticated(request)
            return self._route(request, call)
        except ArmRefusalError as refusal:
            call.code = refusal.code
            headers = {"WWW-Authenticate": 'Bearer error="invalid_token"'} if refusal.status == 401 else None
            return json_response(refusal.document(), status=refusal.status, headers=headers)

    def _authenticated(self, request: web.BaseRequest) -> str:
        """Return the caller's object id. Raise ArmRefusalError (401)."""
        try:
            claims = self._mint.bearer_claims(request.headers.get("Authorization", ""))
        except InvalidTokenError as wrong:
            raise ArmRefusalError(401, "InvalidAuthenticationToken", f"Authentication failed: {wrong}.") from wrong
        if claims is None:
            raise ArmRefusalError(401, "AuthenticationFailed", "Authentication failed. No bearer token was given.")
        if str(claims["aud"]).rstrip("/").lower() not in AUDIENCES:
            raise ArmRefusalError(
                401,
                "InvalidAuthenticationTokenAudience",
                f"The access token has been obtained for the wrong audience {str(claims['aud'])[:200]!r}.",
            )
        return str(claims["oid"])

    def _metadata(self, request: web.BaseRequest) -> web.Response:
        """Return the description of this cloud, with the names by which the client reached it."""
        by_public_name = request.host in ARM_NAMES
        document = arm_catalogue.cloud_metadata(
            _api_version(request),
            login=PUBLIC_LOGIN if by_public_name else self.login_url,
            resource_manager=f"{self.scheme}://{request.host}",
            audiences=AUDIENCES,
            tenant_id=self.directory.tenant_id,
        )
        return json_response(document)

    def _catalogued(self, request: web.BaseRequest, call: ArmCall) -> web.Response | None:
        """Return the response to a GET of subscriptions, tenants or resource groups; None for another request."""
        if request.method != "GET":
            return None
        ids = sorted({key.split("/")[2] for key in self._machines}) if self.directory.has_role(call.caller) else []
        tenant_id = self.directory.tenant_id
        if arm_catalogue.TENANTS_PATH.fullmatch(request.path):
            return json_response({"value": [arm_catalogue.tenant(tenant_id)]})
        if match := arm_catalogue.SUBSCRIPTION_PATH.fullmatch(request.path):
            return _one_or_all(
                {subscription: arm_catalogue.subscription(subscription, tenant_id) for subscription in ids},
                match["subscription"],
                "SubscriptionNotFound",
            )
        if match := arm_catalogue.GROUPS_PATH.fullmatch(request.path):
            prefix = f"/subscriptions/{match['subscription'].lower()}/"
            groups = {
                machine.resource_id.split("/")[4]: machine.location
                for key, machine in sorted(self._machines.items())
                if ids and key.startswith(prefix)
            }
            return _one_or_all(
                {
                    name.lower(): arm_catalogue.resource_group(match["subscription"], name, location)
                    for name, location in groups.items()
                },
                match["group"],
                "ResourceGroupNotFound",
            )
        return None

    def _route(self, request: web.BaseRequest, call: ArmCall) -> web.Response:
        _api_version(request)
        catalogued = self._catalogued(request, call)
        if catalogued is not None:
            return catalogued
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
        if machine is None or self.condition == "no-vm":
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
        if self.condition == "no-role" or not self.directory.may(call.caller, roles):
            raise ArmRefusalError(
                403,
                "AuthorizationFailed",
                f"The client '{call.caller}' with object id '{call.caller}' does not have authorization to perform "
                f"action 'Microsoft.Compute/{kind}/{action}' over scope '{call.path}' or the scope is invalid. If "
                "access was recently granted, please refresh your credentials.",
            )

    def _listed(self, target: re.Match[str]) -> web.Response:
        group = f"/resourcegroups/{target['group'].lower()}/" if target["group"] else ""
        prefix = f"/subscriptions/{target['subscription'].lower()}{group or '/'}"
        kind = target["kind"].lower()
        documents = [
            self._document(machine)
            for key, machine in sorted(self._machines.items())
            if key.startswith(prefix) and machine.kind.lower() == kind and self.condition != "no-vm"
        ]
        return json_response({"value": documents})

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
        section = call.body.get("identity") if isinstance(call.body, dict) else None
        if not isinstance(section, dict):
            return self._shown(machine)  # a PATCH of fields that the emulator does not have
        self._refuse_marked(machine, call, section)
        operation = machine.update(merge(machine, section, self.directory))
        self._operations[operation.name] = operation
        status_url = (
            f"{self.scheme}://{request.host}/subscriptions/{machine.resource_id.split('/')[2]}/providers/"
            f"Microsoft.Compute/locations/{machine.location}/operations/{operation.name}?api-version=2024-11-01"
        )
        headers = {"Azure-AsyncOperation": status_url, "Location": f"{status_url}&monitor=true"}
        if self.etags:
            headers["ETag"] = machine.etag
        return json_response(self._document(machine), status=200, headers=headers)

    def _refuse_marked(self, machine: Machine, call: ArmCall, section: dict[str, Any]) -> None:
        entries = section.get("userAssignedIdentities") or {}
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
        all_fail = self.condition == "no-identity"
        failing = [resource_id for resource_id in wanted if all_fail or resource_id.lower() in self.marked.failing]
        if failing:
            raise no_such_identity(machine, failing[0])

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
        self._machines[resource_id.lower()] = machine
        return machine


def _api_version(request: web.BaseRequest) -> str:
    """Return the request's api-version. Raise ArmRefusalError if it has none."""
    version = str(request.rel_url.query.get("api-version", ""))
    if not version:
        raise ArmRefusalError(
            400, "MissingApiVersionParameter", "The api-version query parameter (?api-version=) is required."
        )
    return version


def _one_or_all(resources: Mapping[str, Mapping[str, Any]], name: str | None, error: str) -> web.Response:
    """Return the resource of this name, in any letter case, or the list of all if there is no name."""
    if name is None:
        return json_response({"value": list(resources.values())})
    resource = resources.get(name.lower())
    if resource is None:
        raise ArmRefusalError(404, error, f"'{name[:90]}' could not be found.")
    return json_response(resource)
