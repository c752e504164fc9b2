"""MIC's real reconcile passes on an API server in memory and on Azure as a table, in virtual time.

A test adds the objects of the cluster to the view, as watches would, and runs passes. The API server has only the
AzureAssignedIdentities and Events. Excluded: watches, queues and the wire to Azure, which `tests/unit/mic/history` has
too.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from typing import Any, Final, Self

import msgspec
from prometheus_client import CollectorRegistry
from typing_extensions import override

from mic.app import COMPONENT
from mic.azure.errors import AzureError, BadIdentities, Unreachable, UpdateConflict
from mic.azure.identities import GONE, Attached, Change, HostIdentities
from mic.azure.memory import GONE_SURE_SECONDS, HostMemory
from mic.cluster.view import ClusterView
from mic.decisions import steps
from mic.decisions.assignments import ExistingAssignment, Key
from mic.decisions.policy import Policy
from mic.leader_client import LeaderClient, leader_request
from mic.metrics import MicMetrics
from mic.reconciliation.host_reconciler import HostReconciler
from mic.reconciliation.host_updater import HostUpdater
from mic.reconciliation.work_queue import PassResult
from mic.reconciliation.writer import Writer, Written
from podidentity.azure.resource_ids import Host, id_key
from podidentity.kube.access import ClusterAccess
from podidentity.kube.aiohttp_session import AiohttpSession
from podidentity.kube.events import EventRecorder
from podidentity.resources import (
    ASSIGNED_IDENTITIES,
    GROUP,
    MESSAGE_ANNOTATION,
    AzureAssignedIdentity,
)
from tests.support.filled_view import FilledView
from tests.support.memory_api import MemoryApi
from tests.support.objects import ClusterObject, binding, identity, identity_id, node, pod, vm_id

ASSIGNED: Final = f"{ASSIGNED_IDENTITIES.plural}.{GROUP}"
VM: Final = vm_id("n0").lower()
"""The key of the host of the node n0, which every world has at first."""
GONE_SECONDS: Final = 180.0
PASSES_MOST: Final = 6

Refusal = Callable[[frozenset[str]], AzureError]


def refused_for(keys: frozenset[str]) -> AzureError:
    """Return Azure's error for an update with these identities (keys)."""
    error = BadIdentities("linked scopes", status=403, code="LinkedAuthorizationFailed")
    error.ids = keys
    return error


class Hosts:
    """Azure as a table of hosts by key. Implements HostClient."""

    def __init__(self, changes: list[Change], note: Callable[[str], None]) -> None:
        self.table: dict[str, HostIdentities] = {}
        self.calls: list[str] = []
        self.changes = changes
        self.failures: dict[str, list[AzureError]] = {"get": [], "update": []}
        """Errors of the next calls, one each."""
        self.refused: dict[str, Refusal] = {}
        """Identities (keys) whose updates Azure refuses, with the error."""
        self.silent: set[str] = set()
        """Hosts (keys) whose reads fail."""
        self.reports_clients = True
        """Whether Azure returns the client id of an identity immediately after it was attached."""
        self._note = note

    @property
    def state(self) -> HostIdentities:
        """The host VM."""
        return self.table[VM]

    @state.setter
    def state(self, state: HostIdentities) -> None:
        self.table[VM] = state

    async def get(self, host: Host) -> HostIdentities:
        self.calls.append("get")
        if self.failures["get"]:
            raise self.failures["get"].pop(0)
        if host.key in self.silent:
            raise Unreachable("no answer")
        return self.table[host.key]

    async def update(self, host: Host, change: Change) -> HostIdentities:
        self.calls.append("update")
        self.changes.append(change)
        self._note("change")
        before = self.table[host.key]
        if self.failures["update"]:
            raise self.failures["update"].pop(0)
        if bad := frozenset(id_key(text) for text in (*change.adds, *change.removes)) & self.refused.keys():
            raise self.refused[min(bad)](bad)
        if change.etag and change.etag != before.etag:
            raise UpdateConflict("another client changed it", status=412, code="PreconditionFailed")
        attached = dict(before.attached)
        for text in change.removes:
            assert text == attached[id_key(text)].text, "a removal is not in Azure's spelling"
            del attached[id_key(text)]
        for text in change.adds:
            client_id = f"client-{text.rpartition('/')[2]}" if self.reports_clients else ""
            attached[id_key(text)] = Attached(text, client_id)
        after = HostIdentities(type=change.type, attached=attached, etag=before.etag)
        self.table[host.key] = after
        return after


class MemoryLeaderClient(LeaderClient):
    """The leader's client of *api*."""

    def __init__(self, api: MemoryApi, user_agent: str, remaining_seconds: Callable[[], float]) -> None:
        clock = asyncio.get_running_loop().time
        super().__init__(api.access(), user_agent=user_agent, clock=clock, remaining_seconds=remaining_seconds)
        self._api = api

    @override
    def _leader_session(
        self, access: ClusterAccess, *, connections: int, headers: Mapping[str, str], reuse: bool
    ) -> AiohttpSession:
        connector = self._api.network.connector(limit=connections, force_close=not reuse)
        request_class = leader_request(lambda: self._remaining_seconds() > 0)
        return AiohttpSession(access, connector, headers, request_class=request_class)


class _NotingWriter(Writer):
    """Notes the names of the steps."""

    note: Callable[[steps.Step], None]

    @override
    async def carry_out(self, planned: Any) -> Written:
        planned = tuple(planned)
        for step in planned:
            self.note(step)
        return await super().carry_out(planned)


class MicWorld(FilledView):
    """One MIC, the leader, and what it works on. Use it as a context, on a VirtualTimeLoop.

    It begins with the node n0 on the host VM, which has no identities.
    """

    def __init__(self, *, policy: Policy | None = None, grace_seconds: float = 0.0, **view: Any) -> None:
        """*view*: options of ClusterView."""
        self._clock = asyncio.get_running_loop().time
        super().__init__(clock=self._clock, **view)
        self._policy = policy or Policy()
        self._grace_seconds = grace_seconds
        self.lease = [60.0]
        """The remaining seconds."""
        self.writes: list[str] = []
        """The names of the steps so far: those of `mic.decisions.steps` in lower case, and "change" for an update."""
        self.taken: list[tuple[str, steps.Step]] = []
        """The steps so far, each with the host (key) whose pass made it."""
        self.changes: list[Change] = []
        """The updates of Azure that were sent."""
        self.hosts = Hosts(self.changes, self.writes.append)
        self.registry = CollectorRegistry()
        self.metrics = MicMetrics(self.registry)
        self.api = MemoryApi()
        self._namespaces = {"", "default"}
        self._host_key = ""
        self.client = MemoryLeaderClient(self.api, f"{COMPONENT}/test", lambda: self.lease[0])
        self.recorder = EventRecorder(self.client, "mic", "host", clock=self._clock)
        self.host(VM)
        self.hosts.state = HostIdentities(etag='"1"')
        self._start()
        self.add(node("n0"))

    async def __aenter__(self) -> Self:
        self._events = asyncio.create_task(self.recorder.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._events.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._events
        await self.client.aclose()
        await asyncio.sleep(0)  # the connections end

    @override
    def add(self, *objects: ClusterObject) -> None:
        """Deliver the objects, which are new or replace those of their names, in namespaces that exist."""
        for namespace in {resource.metadata.namespace for resource in objects} - self._namespaces:
            self._namespaces.add(namespace)
            self.api.store.create("namespaces", {"metadata": {"name": namespace}})
        super().add(*objects)

    def _start(self) -> None:
        writer = _NotingWriter(
            self.client, self.view, self.recorder, self.metrics, batch=20, per_second=1e6, burst=1e6, clock=self._clock
        )
        writer.note = self._note
        updater = HostUpdater(
            self.view,
            self.hosts,
            policy=self._policy,
            max_retries=2,
            retry_seconds=1.0,
            grace_seconds=self._grace_seconds,
            gone_seconds=GONE_SECONDS,
            lease_needed_seconds=10.0,
            lease_remaining=lambda: self.lease[0],
            clock=self._clock,
        )
        self.host_reconciler = HostReconciler(
            self.view, writer, updater, self.recorder, self.metrics, clock=self._clock
        )

    def _note(self, step: steps.Step) -> None:
        self.writes.append(type(step).__name__.lower())
        self.taken.append((self._host_key, step))

    def restart(self) -> None:
        """Begin again with nothing but the objects of the API server, as a new process."""
        self.view = ClusterView(**self._options)
        self._start()
        for resource in [*self._objects.values()]:
            self._changes_of(resource).upserted(None, resource)
        for stored in [*self.objects.values()]:
            self.view.assigned.upserted(None, stored)

    @property
    def policy(self) -> Policy:
        """The policy of MIC, which a test may replace."""
        return self.host_reconciler._updater.policy

    @policy.setter
    def policy(self, policy: Policy) -> None:
        self._policy = self.host_reconciler._updater.policy = policy

    # Azure

    def host(self, host_id: str, *attached: str, type_: str = "", client_id: str = "", **more: Any) -> None:
        """Let Azure have this VM or scale set, with these identities (names) on it, all of one *client_id* where that
        is given. MIC reads it in its next pass."""
        ids = [identity_id(name) for name in attached]
        self.hosts.table[host_id.lower()] = HostIdentities(
            type=type_ or ("UserAssigned" if ids else "None"),
            attached={id_key(text): Attached(text, client_id or f"client-{text.rpartition('/')[2]}") for text in ids},
            **more,
        )
        if hasattr(self, "host_reconciler"):
            self.host_reconciler.request_read(host_id.lower())

    async def lose(self, host_id: str) -> None:
        """Let Azure have this host no longer, for so long that MIC accepts it in its next pass."""
        self.host(host_id, gone=True)
        await self.reconcile(host_id)
        await asyncio.sleep(GONE_SURE_SECONDS)
        self.host_reconciler.request_read(host_id.lower())

    def accept_loss(self, host_key: str) -> None:
        """Let MIC know, before its first pass of the host, that Azure has not had it for long enough."""
        memory = self.host_reconciler._memories[host_key] = HostMemory(self._clock)
        memory.missing_since = self._clock() - GONE_SURE_SECONDS
        memory.learn(GONE, GONE_SECONDS)

    def attached(self, host_id: str) -> set[str]:
        """Return the names of the identities that are attached to the host."""
        return {attached.text.rpartition("/")[2] for attached in self.hosts.table[host_id.lower()].attached.values()}

    def refuse(self, *names: str, refusal: Refusal = refused_for) -> None:
        """Have Azure refuse every update with these identities from now on."""
        self.hosts.refused |= {id_key(identity_id(name)): refusal for name in names}

    def fail(self, call: str, *errors: AzureError) -> None:
        """Have the next calls ("get" or "update") of Azure fail, one for each error."""
        self.hosts.failures[call] += errors

    # Passes

    async def reconcile(self, host_id: str = VM) -> PassResult:
        """Run one pass of the host."""
        self._host_key = host_id.lower()
        return await self.host_reconciler.reconcile(self._host_key)

    async def later(self, seconds: float) -> PassResult:
        """Let time pass, and run one pass of the host VM."""
        await asyncio.sleep(seconds)
        return await self.reconcile()

    async def pauses(self, passes: int) -> list[float]:
        """Run passes of the host VM, each after the pause that the former one returned, and return the pauses."""
        pauses = []
        for _ in range(passes):
            pauses.append((await self.reconcile()).again_after or 0.0)
            await asyncio.sleep(pauses[-1])
        return pauses

    async def steps(self, host_id: str = VM) -> list[str]:
        """Run one pass of the host and return the names of its steps."""
        before = len(self.writes)
        await self.reconcile(host_id)
        return self.writes[before:]

    async def settle(self, *host_ids: str) -> None:
        """Run passes of the hosts, or of all, until none of them makes a step."""
        for _ in range(PASSES_MOST):
            before = len(self.writes)
            for key in [*host_ids] or [host_state.key for host_state in self.view.host_states()]:
                await self.reconcile(key)
            if len(self.writes) == before:
                return
        raise AssertionError(f"{PASSES_MOST} passes of each host did not settle it")

    # The usual objects

    def bind(self, *names: str) -> None:
        """Add a pod for each of these identities, or for `demo`."""
        for name in names or ("demo",):
            self.add(identity(name), binding(name, identity=name, selector=name), pod(name, label=name))

    async def assign(self, *names: str) -> None:
        """Add a pod for each of these identities, or for `demo`, and run one pass."""
        self.bind(*names)
        await self.reconcile()

    async def look(self) -> PassResult:
        """Run one pass that reads the host."""
        self.host_reconciler.request_read(VM)
        return await self.reconcile()

    async def settle_with(self, *objects: ClusterObject) -> None:
        """Add the objects, and run passes of all hosts until none of them makes a step."""
        self.add(*objects)
        await self.settle()

    async def settle_without(self, *objects: ClusterObject) -> None:
        """Remove the objects, and run passes of all hosts until none of them makes a step."""
        self.remove(*objects)
        await self.settle()

    def unbind(self, *names: str) -> None:
        """Delete those pods."""
        self.remove(*(pod(name, label=name) for name in names or ("demo",)))

    # The API server

    @property
    def objects(self) -> dict[Key, AzureAssignedIdentity]:
        """The stored AzureAssignedIdentities."""
        decoded = (msgspec.convert(document, AzureAssignedIdentity) for document in self.api.store.list(ASSIGNED))
        return {assigned.key: assigned for assigned in decoded}

    def statuses(self) -> dict[str, str]:
        """Object name -> status."""
        return {stored["metadata"]["name"]: stored["status"]["status"] for stored in self.api.store.list(ASSIGNED)}

    def message(self, name: str) -> str:
        """Return the message of the object in the namespace default."""
        annotations = self.api.store.get(ASSIGNED, name, "default")["metadata"].get("annotations", {})
        return str(annotations.get(MESSAGE_ANNOTATION, ""))

    def write(self, document: Mapping[str, Any]) -> AzureAssignedIdentity:
        """Create an AzureAssignedIdentity as another client would, and deliver its watch event."""
        namespace = document["metadata"].get("namespace", "default")
        stored = self.api.store.create(ASSIGNED, dict(document), namespace)
        written = msgspec.convert(stored, AzureAssignedIdentity)
        self.view.assigned.upserted(None, written)
        return written

    def delete(self, key: Key) -> None:
        """Delete an AzureAssignedIdentity as another client would, and deliver its watch event."""
        namespace, name = key
        self.api.store.delete(ASSIGNED, name, namespace)
        left = self.objects.get(key)
        existing = self.view.existing(key)
        assert existing is not None
        if left is None:
            self.view.assigned.deleted(existing.object)
        else:
            self.view.assigned.upserted(existing.object, left)

    def existing(self, name: str, namespace: str = "default") -> ExistingAssignment:
        """Return an AzureAssignedIdentity as MIC knows it."""
        assigned = self.view.existing((namespace, name))
        assert assigned is not None
        return assigned

    async def warnings(self) -> list[dict[str, Any]]:
        """Return the Events of type Warning."""
        await self.recorder.flushed()
        return [event for event in self.api.store.list("events") if event["type"] == "Warning"]

    async def warned(self) -> list[str]:
        """Return the kinds and names of the objects whose binding could not be applied, an Event each."""
        warnings = await self.warnings()
        assert {event["reason"] for event in warnings} <= {"binding apply error"}
        return sorted(f"{event['involvedObject']['kind']} {event['involvedObject']['name']}" for event in warnings)
