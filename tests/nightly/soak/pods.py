"""Pods that come and go on a fixed set of addresses, so that each address keeps passing to pods of other identities.

The load learns the owner of an address in two steps. Before any write that could announce the new owner, "own": tokens
of either owner are right from now on. After the write that ends the old owner, when NMI's watches have been whole for
WINDOW_SECONDS since, "only": from now on a token of the old owner is wrong. Between two pods an address has no owner,
and any token is wrong.
"""

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from podidentity.kube.client import MERGE_PATCH, Client
from podidentity.resources import (
    ASSIGNED,
    ASSIGNED_IDENTITIES,
    BINDING_LABEL,
    NODENAME_LABEL,
    POD_UID_ANNOTATION,
    PODS,
    nodename_label,
)
from podidentity_sandbox.directory import ManagedIdentity
from tests.nightly.soak.soak_node import NODE, Faults, SoakNode

WINDOW_SECONDS: Final = 1.0
"""Far longer than the latency of a healthy watch on a busy machine: docs/security.md states milliseconds."""
NAMESPACE: Final = "default"
TWO_IDENTITIES: Final = 0.2
"""The share of pods that have two."""

Order = Callable[[list[Any]], Awaitable[None]]
"""Sends a command to the load; returns when the load can read it."""


@dataclass
class Slot:
    """One address and the pod that has it now."""

    address: str
    name: str = ""
    uid: str = ""
    identities: list[ManagedIdentity] = field(default_factory=list)
    assigned: list[str] = field(default_factory=list)
    """Names of its AzureAssignedIdentities."""
    tenure: int = 0
    busy: bool = False


class Pods:
    """The pods of the node."""

    def __init__(self, soak_node: SoakNode, faults: Faults, order: Order, *, count: int, seed: int) -> None:
        self._client: Client = soak_node.client
        self._identities = soak_node.identities
        self.faults = faults
        self._order = order
        self._draw = random.Random(seed)
        self._serial = itertools.count()
        self.slots = [Slot(f"127.77.{number // 200}.{number % 200 + 1}") for number in range(count)]
        self.changes: dict[str, int] = {}
        """How often an address changed hands in each manner."""

    async def fill(self) -> None:
        """A first pod on every address."""
        for start in range(0, len(self.slots), 10):
            await asyncio.gather(*(self._fill(slot) for slot in self.slots[start : start + 10]))

    async def _fill(self, slot: Slot) -> None:
        await self._announce(slot, self._chosen(slot))
        await self._create(slot)
        await self._order(["only", slot.address, slot.tenure, False])

    async def churn(self, per_second: float) -> None:
        """Let addresses change hands until cancelled. An exception out of a change ends it."""
        manners = {
            "deleted, then created": self._orderly,
            "old one still terminating": self._overlapping,
            "old one has finished": self._finished,
            "same name": self._namesake,
            "another identity for the same pod": self._relabelled,
            "no pod for a while": self._vacant,
        }
        async with asyncio.TaskGroup() as tasks:
            while True:
                await asyncio.sleep(self._draw.expovariate(per_second))
                slot = self._draw.choice(self.slots)
                if not slot.busy:
                    name = self._draw.choice(list(manners))
                    self.changes[name] = self.changes.get(name, 0) + 1
                    tasks.create_task(self._change(slot, manners[name]), name=name)

    async def _change(self, slot: Slot, manner: Callable[[Slot], Awaitable[None]]) -> None:
        slot.busy = True
        await manner(slot)
        slot.busy = False

    # The manners in which an address changes hands.

    async def _orderly(self, slot: Slot) -> None:
        old = self._taken(slot)
        await self._announce(slot, self._chosen(slot))
        await self._delete(old)
        await self._create(slot)
        await self._only(slot)

    async def _overlapping(self, slot: Slot) -> None:
        """The old pod's sandbox is removed and its address reused. Its object exists for a grace period."""
        old = self._taken(slot)
        await self._client.request("DELETE", PODS.path(NAMESPACE, old.name), body=b'{"gracePeriodSeconds":30}')
        await self._announce(slot, self._chosen(slot))
        await self._create(slot)
        await self._only(slot)
        await asyncio.sleep(self._draw.uniform(0, 3))
        await self._delete(old)

    async def _finished(self, slot: Slot) -> None:
        old = self._taken(slot)
        await self._status(old, {"phase": "Succeeded"})
        await self._announce(slot, self._chosen(slot))
        await self._create(slot)
        await self._only(slot)
        await self._delete(old)

    async def _namesake(self, slot: Slot) -> None:
        """Replace a pod like a StatefulSet does; the old one's assigned identity is revoked late."""
        old = self._taken(slot)
        await self._announce(slot, self._chosen(slot))
        await self._delete(old, assigned=False)
        slot.name = old.name
        await self._create(slot)
        await self._only(slot)
        for name in old.assigned:
            await self._client.delete(ASSIGNED_IDENTITIES, NAMESPACE, name)

    async def _relabelled(self, slot: Slot) -> None:
        """The pod stays and its label changes: other bindings select it."""
        old = Slot(slot.address, slot.name, slot.uid, slot.identities, slot.assigned)
        await self._announce(slot, self._chosen(slot))
        slot.assigned = []
        labels = {"metadata": {"labels": {BINDING_LABEL: selector(slot.identities)}}}
        await self._patch(PODS.path(NAMESPACE, slot.name), labels)
        await self._assign(slot)
        await self._only(slot)
        for name in old.assigned:
            await self._client.delete(ASSIGNED_IDENTITIES, NAMESPACE, name)

    async def _vacant(self, slot: Slot) -> None:
        old = self._taken(slot)
        await self._announce(slot, [])
        await self._delete(old)
        await self._only(slot)
        await asyncio.sleep(self._draw.uniform(0, 3))
        await self._announce(slot, self._chosen(slot))
        await self._create(slot)
        await self._only(slot)

    # Objects of the pods.

    def _chosen(self, slot: Slot) -> list[ManagedIdentity]:
        """Identities of which the slot's present pod has none."""
        others = [each for each in self._identities if each not in slot.identities]
        return self._draw.sample(others, 2 if self._draw.random() < TWO_IDENTITIES else 1)

    def _taken(self, slot: Slot) -> Slot:
        """The pod that is there, by itself; the slot is ready for the next."""
        old = Slot(slot.address, slot.name, slot.uid, slot.identities, slot.assigned)
        slot.name, slot.uid, slot.assigned = "", "", []
        return old

    async def _announce(self, slot: Slot, identities: list[ManagedIdentity]) -> None:
        slot.tenure += 1
        slot.identities = identities
        await self._order(["own", slot.address, slot.tenure, [each.client_id for each in identities]])

    async def _only(self, slot: Slot) -> None:
        undisturbed = await self.faults.settled(WINDOW_SECONDS)
        await self._order(["only", slot.address, slot.tenure, undisturbed])

    async def _create(self, slot: Slot) -> None:
        slot.name = slot.name or f"pod-{next(self._serial)}"
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": slot.name, "labels": {BINDING_LABEL: selector(slot.identities), "app": "soak"}},
            "spec": {"nodeName": NODE, "containers": [{"name": "main", "image": "pause"}]},
        }
        made = await self._client.create(PODS, NAMESPACE, pod)
        slot.uid = made.metadata.uid
        first, second = self._draw.sample([self._run, self._assign], 2)  # MIC may be sooner than the kubelet
        await first(slot)
        await second(slot)

    async def _run(self, slot: Slot) -> None:
        await self._status(slot, {"phase": "Running", "podIP": slot.address, "podIPs": [{"ip": slot.address}]})

    async def _assign(self, slot: Slot) -> None:
        for identity in slot.identities:
            document = assigned_identity(slot, identity, next(self._serial))
            await self._client.create(ASSIGNED_IDENTITIES, NAMESPACE, document)
            slot.assigned.append(document["metadata"]["name"])

    async def _status(self, slot: Slot, status: Mapping[str, Any]) -> None:
        await self._patch(PODS.path(NAMESPACE, slot.name, "status"), {"status": status})

    async def _patch(self, path: str, change: Mapping[str, Any]) -> None:
        await self._client.request("PATCH", path, body=msgspec.json.encode(change), content_type=MERGE_PATCH)

    async def _delete(self, old: Slot, *, assigned: bool = True) -> None:
        """Delete the pod as the kubelet does, and then its assigned identity as MIC does."""
        await self._client.request("DELETE", PODS.path(NAMESPACE, old.name), body=b'{"gracePeriodSeconds":0}')
        for name in old.assigned if assigned else ():
            await self._client.delete(ASSIGNED_IDENTITIES, NAMESPACE, name)


def selector(identities: list[ManagedIdentity]) -> str:
    """The label of pods that have exactly these."""
    return "-".join(identity.client_id[-4:] for identity in identities)


def assigned_identity(slot: Slot, identity: ManagedIdentity, serial: int) -> dict[str, Any]:
    """As MIC writes it once the identity is on the VM."""
    name = identity.resource_id.rpartition("/")[2]
    return {
        "apiVersion": "aadpodidentity.k8s.io/v1",
        "kind": "AzureAssignedIdentity",
        "metadata": {
            "name": f"{slot.name}-{name}-{serial}",
            "labels": {NODENAME_LABEL: nodename_label(NODE)},
            "annotations": {POD_UID_ANNOTATION: slot.uid},
        },
        "spec": {
            "azureIdentityRef": {
                "metadata": {"name": name, "namespace": NAMESPACE},
                "spec": {"type": 0, "resourceID": identity.resource_id, "clientID": identity.client_id},
            },
            "azureBindingRef": {
                "metadata": {"name": f"binding-{name}", "namespace": NAMESPACE},
                "spec": {"azureIdentity": name, "selector": selector(slot.identities)},
            },
            "pod": slot.name,
            "podNamespace": NAMESPACE,
            "nodename": NODE,
        },
        "status": {"status": ASSIGNED},
    }
