"""Pods that come and go on a fixed set of addresses, so that each address keeps passing to pods of other identities.

The load learns the owner of an address in two steps. Before any write that could announce the new owner, "own": tokens
of either owner are right from now on. After the write that ends the old owner, when NMI's own state contains the
change, "only": from now on a token of the old owner is wrong. Between two pods an address has no owner, and any token
is wrong.
"""

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import msgspec

from podidentity.kube.client import MERGE_PATCH
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

LEARN_SECONDS: Final = 60.0
"""How long NMI may take to learn of changes without faults. It takes a fraction of a second."""
NAMESPACE: Final = "default"
TWO_IDENTITIES: Final = 0.2
"""The share of pods that have two."""

Order = Callable[..., Awaitable[None]]
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


MANNERS: Final = (
    "deleted, then created",
    "old one still terminating",
    "old one has finished",
    "same name",
    "another identity for the same pod",
    "no pod for a while",
)
"""The manners in which an address changes hands."""


class Pods:
    """The pods of the node."""

    def __init__(self, soak_node: SoakNode, faults: Faults, order: Order, *, count: int, seed: int) -> None:
        self._node = soak_node
        self._client = soak_node.client
        self._identities = soak_node.identities
        self._faults = faults
        self._order = order
        self._draw = random.Random(seed)
        self._serial = itertools.count()
        self.slots = [Slot(f"127.77.{number // 200}.{number % 200 + 1}") for number in range(count)]
        self.changes: Counter[str] = Counter()
        """How often an address changed hands in each manner."""
        self.undisturbed = 0
        """Changes that NMI has learnt without a fault of the API server."""

    async def fill(self) -> None:
        """Create a first pod on every address. Raise TimeoutError if NMI does not learn of them."""
        for slot in self.slots:
            await self._announce(slot)
            await self._create(slot)
        async with asyncio.timeout(LEARN_SECONDS):
            await asyncio.gather(*map(self._only, self.slots))
        self.undisturbed = 0

    @property
    def unknown(self) -> list[str]:
        """The addresses of which NMI has not learnt the latest change."""
        return [slot.address for slot in self.slots if slot.busy]

    async def churn(self, per_second: float, stop: asyncio.Event) -> None:
        """Let addresses change hands until *stop* is set, and wait until NMI has learnt of each change. Raises what a
        change raises.
        """
        async with asyncio.TaskGroup() as tasks:
            while not stop.is_set():
                await asyncio.sleep(self._draw.expovariate(per_second))
                slot = self._draw.choice(self.slots)
                if not slot.busy:
                    manner = self._draw.choice(MANNERS)
                    self.changes[manner] += 1
                    tasks.create_task(self._change(slot, manner), name=manner)

    async def _change(self, slot: Slot, manner: str) -> None:
        slot.busy = True
        old = replace(slot)
        slot.assigned = []
        if manner not in ("same name", "another identity for the same pod"):
            slot.name = ""
        match manner:
            case "deleted, then created":
                await self._delete(old)
                await self._revoke(old)
            case "old one still terminating":
                # Its sandbox is removed and its address reused. Its object exists for a grace period.
                await self._delete(old, grace_seconds=30)
            case "old one has finished":
                await self._patch(old, {"status": {"phase": "Succeeded"}}, "status")
            case "same name":
                # As a StatefulSet does. The assigned identity is revoked late.
                await self._delete(old)
            case "no pod for a while":
                await self._announce(slot, vacant=True)
                await self._delete(old)
                await self._revoke(old)
                await self._only(slot, without=old.uid)
                await asyncio.sleep(self._draw.uniform(0, 3))
        await self._announce(slot)
        if manner == "another identity for the same pod":
            # The pod stays, and other bindings select it.
            await self._patch(slot, {"metadata": {"labels": {BINDING_LABEL: selector(slot.identities)}}})
            await self._assign(slot)
        else:
            await self._create(slot)
        await self._only(slot)
        if manner in ("old one still terminating", "old one has finished"):
            await asyncio.sleep(self._draw.uniform(0, 3))
            await self._delete(old)
        await self._revoke(old)
        slot.busy = False

    async def _announce(self, slot: Slot, *, vacant: bool = False) -> None:
        """Begin a tenure, with identities of which the slot's present pod has none."""
        others = [identity for identity in self._identities if identity not in slot.identities]
        several = 2 if self._draw.random() < TWO_IDENTITIES else 1
        slot.tenure += 1
        slot.identities = [] if vacant else self._draw.sample(others, several)
        await self._order("own", slot.address, slot.tenure, [identity.client_id for identity in slot.identities])

    async def _only(self, slot: Slot, *, without: str = "") -> None:
        """Wait until NMI has the slot's tenure: its pod and identities, or no pod with the uid *without*."""
        label, needed = selector(slot.identities), set(map(resource_name, slot.identities))
        undisturbed, is_known = True, False
        while not is_known:
            undisturbed &= not self._faults.disturbed
            pods = await self._node.pods_of_nmi()
            if without:
                is_known = without not in pods
            elif (pod := pods.get(slot.uid)) is not None and slot.address in pod["addresses"]:
                names = {row["identity"].rpartition("/")[2] for row in pod["identities"] if row["usable"]}
                is_known = pod["label"] == label and names >= needed
        self.undisturbed += undisturbed
        await self._order("only", slot.address, slot.tenure, undisturbed)

    async def _create(self, slot: Slot) -> None:
        slot.name = slot.name or f"pod-{next(self._serial)}"
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": slot.name, "labels": {BINDING_LABEL: selector(slot.identities), "app": "soak"}},
            "spec": {"nodeName": NODE, "containers": [{"name": "main", "image": "pause"}]},
        }
        slot.uid = (await self._client.create(PODS, NAMESPACE, pod)).metadata.uid
        first, second = self._draw.sample([self._run, self._assign], 2)  # MIC may be sooner than the kubelet
        await first(slot)
        await second(slot)

    async def _run(self, slot: Slot) -> None:
        status = {"phase": "Running", "podIP": slot.address, "podIPs": [{"ip": slot.address}]}
        await self._patch(slot, {"status": status}, "status")

    async def _assign(self, slot: Slot) -> None:
        for identity in slot.identities:
            document = assigned_identity(slot, identity, next(self._serial))
            await self._client.create(ASSIGNED_IDENTITIES, NAMESPACE, document)
            slot.assigned.append(document["metadata"]["name"])

    async def _patch(self, slot: Slot, change: Mapping[str, Any], subresource: str = "") -> None:
        path = PODS.path(NAMESPACE, slot.name, subresource)
        await self._client.request("PATCH", path, body=msgspec.json.encode(change), content_type=MERGE_PATCH)

    async def _delete(self, old: Slot, *, grace_seconds: int = 0) -> None:
        """Delete the pod as the kubelet does."""
        body = b'{"gracePeriodSeconds":%d}' % grace_seconds
        await self._client.request("DELETE", PODS.path(NAMESPACE, old.name), body=body)

    async def _revoke(self, old: Slot) -> None:
        """Delete the pod's assigned identities as MIC does, if they exist still."""
        while old.assigned:
            await self._client.delete(ASSIGNED_IDENTITIES, NAMESPACE, old.assigned.pop())


def selector(identities: list[ManagedIdentity]) -> str:
    """The label of pods that have exactly these."""
    return "-".join(identity.client_id[-4:] for identity in identities)


def resource_name(identity: ManagedIdentity) -> str:
    """The name of *identity* on Azure, which is that of its AzureIdentity."""
    return identity.resource_id.rpartition("/")[2]


def assigned_identity(slot: Slot, identity: ManagedIdentity, serial: int) -> dict[str, Any]:
    """As MIC writes it once the identity is on the VM."""
    name = resource_name(identity)
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
