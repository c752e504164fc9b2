"""Ownership reads: reads about an unknown or contested address, an unknown name and a doubtful pod, and their effect.

A read never overwrites data that a watch has delivered, because the two may cross: it only adds an unconfirmed pod,
settles the owner of an address, or finds a pod gone.
"""

from typing import Final

from nmi.identity.decide import Wait, wait_if_stopped
from nmi.identity.metrics import IdentityMetrics
from nmi.identity.pod_entry import PodEntry
from nmi.identity.pod_registry import AddressOwners, PodRegistry
from nmi.identity.pods import own_addresses, owner_of
from nmi.identity.verification_reads import PendingReads, UnansweredError, VerificationReads
from nmi.refusal import Reason, Refusal
from podidentity.resources import Pod

GONE: Final = Refusal(
    Reason.UNKNOWN_ADDRESS,
    "The pod of this request no longer exists.",
    "the pod has been deleted, has finished, or another pod has its address now; nothing to do",
)


class OwnershipReads:
    """The reads that find the owner of an address, or check that it is still the owner."""

    def __init__(
        self,
        reads: VerificationReads,
        pods: PodRegistry,
        addresses: AddressOwners,
        pending_reads: PendingReads,
        measures: IdentityMetrics,
        *,
        node: str,
    ) -> None:
        self._reads = reads
        self._pods = pods
        self._addresses = addresses
        self._pending_reads = pending_reads
        self._measures = measures
        self._node = node

    async def verify(self, entry: PodEntry, address: str) -> Pod | Wait | Refusal:
        """Return the pod of *entry* from a read, if it may be served. Raises UnansweredError."""
        # A read from before a watch event proves less than the watch, so no read is shared across generations.
        generation_key = f"{entry.uid}/{entry.record.generation}"
        read = await self._reads.pod(entry.namespace, entry.name, generation_key)
        # A later pod of the same name is another pod: it must not inherit this one's grants.
        if read is None or read.metadata.uid != entry.uid or read.finished:
            self._measures.retired_by_read += 1
            self._pods.retire(entry)
            return GONE
        # The address may be another pod's by now, while this pod still exists.
        if address and address not in own_addresses(read):
            return GONE
        return wait_if_stopped(read, named=not address) or read

    async def still_owns(self, entry: PodEntry, address: str) -> bool:
        """Return whether new reads show that *address* is the pod's, and that no other pod there started as late.

        False too if they may be outdated, because the pod, a listed one or the address changed during the reads.
        """
        with self._pending_reads.read() as pending:
            try:
                read = await self._reads.pod_now(entry.namespace, entry.name)
                listed = await self._reads.at_address(address, self._node)
            except UnansweredError:
                return False
            # Another pod may have got the address since, or this pod may have changed, which the list does not show.
            outdated = pending.is_outdated(address, (entry.namespace, entry.name), *(pod.key for pod in listed))
        if read is None or read.metadata.uid != entry.uid or read.finished:
            if not entry.gone:
                self._measures.retired_by_read += 1
                self._pods.retire(entry)
            return False
        pods = [pod for pod in listed if address in own_addresses(pod)]
        # A finished pod releases its sandbox, so it contests no address.
        rivals = any(pod.metadata.uid != entry.uid and not pod.finished for pod in pods)
        owner = owner_of(pods) if rivals else read
        return (
            not outdated
            and address in own_addresses(read)
            and wait_if_stopped(read, named=False) is None
            and owner is not None
            and owner.metadata.uid == entry.uid
        )

    async def find_pod(self, key: str) -> bool:
        """Send one read for an unknown pod that a request named. Return whether it must be repeated."""
        namespace, name = key.split("/", 1)
        with self._pending_reads.read() as read:
            try:
                # A new read: a shared one may have been sent before the changes that `read` records.
                pod = await self._reads.pod_now(namespace, name)
            except UnansweredError:
                return False
            if read.is_outdated((namespace, name)):
                return True
        entry = self._pods.get(namespace, name)
        # NMI trusts the pods of its own node only: another kubelet may write any address.
        if pod is not None and not pod.finished and pod.spec.node_name == self._node and entry is None:
            self._pods.enter(pod, confirmed=False)
        return False

    async def find_owner(self, address: str) -> bool:
        """Send one read about an unknown or contested address. Return whether it must be repeated."""
        with self._pending_reads.read() as read:
            try:
                pods = await self._reads.at_address(address, self._node)
            except UnansweredError:
                return False
            if read.is_outdated(address, *(pod.key for pod in pods)):
                return True
        uids = {pod.metadata.uid for pod in pods}
        for candidate in self._addresses.candidates(address):
            if not candidate.confirmed and candidate.uid not in uids:
                # Only a read has reported this pod, never the watch, so no event will remove it.
                self._pods.retire(candidate)
        owner = owner_of([pod for pod in pods if address in own_addresses(pod)])
        if owner is not None and not self._is_suspended(owner):
            self._settle(address, owner)
        return False

    def _is_suspended(self, pod: Pod) -> bool:
        """Return whether local evidence contradicts the pod that a read shows."""
        entry = self._pods.get(*pod.key)
        return entry is not None and entry.uid == pod.metadata.uid and entry.suspended

    def _settle(self, address: str, pod: Pod) -> None:
        """Apply a read that shows that *address* is *pod*'s."""
        entry = self._pods.get(*pod.key)
        if entry is None:
            entry = self._pods.enter(pod, confirmed=False)
        elif entry.uid != pod.metadata.uid:
            # Only the watch knows which of the two pods is the later one.
            return
        elif address not in entry.addresses:
            entry.add_unconfirmed(address)
            self._addresses.add([address], entry)
        self._addresses.settle(address, entry)
