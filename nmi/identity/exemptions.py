"""Pods that use the node's own identities: those under an AzurePodIdentityException of their namespace, and MIC.

A user with permission to write an AzurePodIdentityException gives every pod of its namespace that carries one of its
labels all Azure permissions of the node. So each new effective exception is logged at warning level, and counted.
"""

import logging
import time
from collections.abc import Callable, Collection, Iterable
from typing import Final

from nmi.identity.watches import AffectedPods
from podidentity.resources import AzurePodIdentityException, Pod
from podidentity.telemetry.log_limit import LogLimit

log = logging.getLogger(__name__)

MIC: Final = "MIC"
MIC_OWNER: Final = "mic"
"""Prefix of the ReplicaSet names of the Deployment `mic`, which the Go implementation's plain manifests create.

The ReplicaSets of this project's chart and manifests begin with `aad-pod-identity-mic`, as in the Go implementation's
chart. Their pods are exempt only by the AzurePodIdentityException `mic` that is installed with them.
# reference: pkg/nmi/server/server.go, isMIC"""
MIC_LABELS: Final = (("app.kubernetes.io/component", "mic"), ("component", "mic"))
"""MIC's pods carry one of these: the first from a chart, the second from the Go implementation's plain manifests."""

LINES_PER_MINUTE: Final = 100
"""More new exceptions in a minute mean a flood of the API server. The metric counts all of them."""
OMISSION: Final = "more exceptions than are logged individually; the metric nmi_exceptions_seen counts all"

Pair = tuple[str, str, str]
"""Namespace, label key, lower-cased label value."""


class Exemptions:
    """The effective exceptions, and the exemption of each pod."""

    def __init__(
        self,
        *,
        mic_namespace: str = "default",
        namespaces: Collection[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Store the settings.

        *namespaces*: the namespaces in which exceptions are effective; all if empty.
        """
        # Names of namespaces are lower case, so a flag in another spelling would exempt no pod.
        self._mic_namespace = mic_namespace.lower()
        self._namespaces = frozenset(namespaces)
        self._counting: dict[tuple[str, str], frozenset[Pair]] = {}
        self._by_pair: dict[Pair, dict[str, None]] = {}
        """Names of the exceptions that match a label, in the order of their arrival."""
        self._lines = LogLimit(burst=LINES_PER_MINUTE, per_second=LINES_PER_MINUTE / 60, omission=OMISSION, clock=clock)
        self.seen = 0
        """Exceptions that became effective, or changed their labels, since the start."""

    def __len__(self) -> int:
        """Return the number of effective exceptions."""
        return len(self._counting)

    def reason(self, pod: Pod) -> str:
        """Return why *pod* is exempt (`MIC`, `exception namespace/name`), or an empty string if it is not.

        The result for a mirror pod is not used: `decide` refuses mirror pods first.
        """
        if is_mic(pod, self._mic_namespace):
            return MIC
        for pair in _labels(pod):
            for name in self._by_pair.get(pair, ()):
                return f"exception {pod.metadata.namespace}/{name}"
        return ""

    def reason_given(self, pod: Pod, exceptions: Iterable[AzurePodIdentityException]) -> str:
        """Return the same according to *exceptions*, which a read returned, instead of the watch."""
        if is_mic(pod, self._mic_namespace):
            return MIC
        carried = _labels(pod)
        for exception in exceptions:
            if not carried.isdisjoint(self._pairs(exception)):
                return f"exception {'/'.join(exception.key)}"
        return ""

    # Watch events. Each method returns the pods that may have become exempt, or are no longer exempt.

    def upserted(
        self,
        old: AzurePodIdentityException | None,  # noqa: ARG002 - compared with its own
        new: AzurePodIdentityException,
    ) -> list[AffectedPods]:
        """Add or replace an exception."""
        pairs = self._pairs(new)
        # A change of other fields must not cause a warning and a count for the same exception.
        if self._counting.get(new.key, frozenset()) == pairs:
            return []
        self._replace(new.key, pairs)
        if pairs:
            self.seen += 1
            self._report(new)
        # An exception counts in its own namespace only, whatever labels the pods elsewhere have.
        return [(new.metadata.namespace, "")]

    def deleted(self, old: AzurePodIdentityException) -> list[AffectedPods]:
        """Remove an exception."""
        if old.key not in self._counting:
            return []
        self._replace(old.key, frozenset())
        return [(old.metadata.namespace, "")]

    def _pairs(self, exception: AzurePodIdentityException) -> frozenset[Pair]:
        """Return the labels that the exception matches; nothing if it is not effective or is being deleted."""
        namespace = exception.metadata.namespace
        # A finalizer may delay the removal for any time, but the operator has ended the exception.
        if exception.metadata.deletion_timestamp is not None:
            return frozenset()
        # The operator limits with this flag who can give pods the node's own identities.
        if self._namespaces and namespace not in self._namespaces:
            return frozenset()
        labels = exception.spec.pod_labels or {}
        return frozenset((namespace, key, value.lower()) for key, value in labels.items() if key)

    def _replace(self, key: tuple[str, str], pairs: frozenset[Pair]) -> None:
        for pair in self._counting.pop(key, ()):
            names = self._by_pair[pair]
            del names[key[1]]
            if not names:
                del self._by_pair[pair]
        if pairs:
            self._counting[key] = pairs
            for pair in pairs:
                self._by_pair.setdefault(pair, {})[key[1]] = None

    def _report(self, exception: AzurePodIdentityException) -> None:
        if self._lines.allows():
            labels = exception.spec.pod_labels or {}
            log.warning(
                "pods with one of these labels get the node's own identities; check who may write exceptions",
                extra={
                    "resource": f"azurepodidentityexceptions {'/'.join(exception.key)}",
                    "reason": ", ".join(f"{key}={value}" for key, value in labels.items()),
                },
            )


def is_mic(pod: Pod, namespace: str) -> bool:
    """Return whether *pod* is one of MIC's own, which run in *namespace*.

    The Go implementation checks the controller only. NMI also checks the labels, so that a ReplicaSet named `mic-x` is
    not MIC. A pod that only claims to be a replica of MIC's ReplicaSet is released by it, or deleted as a surplus
    replica.
    """
    metadata = pod.metadata
    return (
        metadata.namespace == namespace
        and any(metadata.label(key) == value for key, value in MIC_LABELS)
        and any(
            owner.kind == "ReplicaSet" and owner.controller is True and owner.name.startswith(MIC_OWNER)
            for owner in metadata.owner_references or ()
        )
    )


def _labels(pod: Pod) -> frozenset[Pair]:
    labels = pod.metadata.labels or {}
    return frozenset((pod.metadata.namespace, key, value.lower()) for key, value in labels.items())
