"""Which pods the node's own identities are for: those under an exception of their namespace, and a MIC called `mic`.

Whoever may write an AzurePodIdentityException gives every pod of its namespace that carries one of its labels whatever
the node may do in Azure. So each one that begins to count is told at warning level, and counted.
"""

import logging
import time
from collections.abc import Callable, Collection, Iterable
from typing import Final

from podidentity.resources import AzurePodIdentityException, Pod

log = logging.getLogger(__name__)

MIC: Final = "MIC"
MIC_OWNER: Final = "mic"
"""How the names begin of the ReplicaSets of the Deployment `mic`, which the reference's plain manifests make.

Those of our own chart and manifests begin with `aad-pod-identity-mic`, as the reference's chart had it: their pods are
exempt by the AzurePodIdentityException `mic` that is installed with them, and by nothing here.
# reference: pkg/nmi/server/server.go, isMIC
"""
MIC_LABELS: Final = (("app.kubernetes.io/component", "mic"), ("component", "mic"))
"""MIC's pods carry one of these: the first from a chart, the second from the reference's plain manifests."""

LINES_PER_MINUTE: Final = 100
"""More than that begin to count at once only where somebody floods the API server; the metric counts them all."""

Pair = tuple[str, str, str]
"""Namespace, label key, lower-cased label value."""


class Exemptions:
    """The exceptions that count, and what they say of a pod. The handler of their watch; plain bookkeeping."""

    def __init__(
        self,
        changed: Callable[[str], None],
        *,
        mic_namespace: str = "default",
        namespaces: Collection[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """*changed* is called with a namespace whose pods may have become exempt, or stopped being so.

        *namespaces*: where exceptions count; everywhere if empty.
        """
        self._changed = changed
        self._mic_namespace = mic_namespace.lower()
        self._namespaces = frozenset(namespaces)
        self._clock = clock
        self._counting: dict[tuple[str, str], frozenset[Pair]] = {}
        self._by_pair: dict[Pair, dict[str, None]] = {}
        self._minute = float("-inf")
        self._lines = 0
        self.seen = 0
        """Exceptions that have begun to count, or changed what they match, so far."""

    def __len__(self) -> int:
        """How many count now."""
        return len(self._counting)

    def why(self, pod: Pod) -> str:
        """Why *pod*'s requests go to IMDS as they are (`MIC`, `exception namespace/name`), or empty: they do not.

        Never a mirror pod's: `decide` refuses those before it looks at this.
        """
        if is_mic(pod, self._mic_namespace):
            return MIC
        for pair in _labels(pod):
            for name in self._by_pair.get(pair, ()):
                return f"exception {pod.metadata.namespace}/{name}"
        return ""

    def why_given(self, pod: Pod, exceptions: Iterable[AzurePodIdentityException]) -> str:
        """The same, going by *exceptions* (which a read has brought) instead of by what the watch has told."""
        if is_mic(pod, self._mic_namespace):
            return MIC
        carried = _labels(pod)
        for each in exceptions:
            if not carried.isdisjoint(self._pairs(each)):
                return f"exception {'/'.join(each.key)}"
        return ""

    # The watch's handler.

    def upserted(self, old: AzurePodIdentityException | None, new: AzurePodIdentityException) -> None:  # noqa: ARG002
        """An exception is, or has become, like *new*."""
        pairs = self._pairs(new)
        if self._counting.get(new.key, frozenset()) == pairs:
            return
        self._replace(new.key, pairs)
        if pairs:
            self.seen += 1
            self._tell(new)
        self._changed(new.metadata.namespace)

    def deleted(self, old: AzurePodIdentityException) -> None:
        """An exception is gone."""
        if old.key in self._counting:
            self._replace(old.key, frozenset())
            self._changed(old.metadata.namespace)

    def _pairs(self, exception: AzurePodIdentityException) -> frozenset[Pair]:
        """What it matches; nothing where exceptions do not count, or while it is being deleted."""
        namespace = exception.metadata.namespace
        if exception.metadata.deletion_timestamp is not None:
            return frozenset()
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

    def _tell(self, exception: AzurePodIdentityException) -> None:
        now = self._clock()
        if now - self._minute >= 60.0:
            self._minute, self._lines = now, 0
        self._lines += 1
        if self._lines <= LINES_PER_MINUTE:
            labels = exception.spec.pod_labels or {}
            log.warning(
                "pods with one of these labels get the node's own identities: see who may write exceptions there",
                extra={
                    "resource": f"azurepodidentityexceptions {'/'.join(exception.key)}",
                    "reason": ", ".join(f"{key}={value}" for key, value in labels.items()),
                },
            )
        elif self._lines == LINES_PER_MINUTE + 1:
            log.warning("more exceptions than are told one by one; the metric nmi_exceptions_seen counts all")


def is_mic(pod: Pod, namespace: str) -> bool:
    """Whether *pod* is one of MIC's own, which run in *namespace*.

    By its controller, as the reference has it, and by its labels besides: nobody becomes MIC by calling a ReplicaSet
    `mic-x`, and a pod that only claims to be a replica of MIC's is released, or deleted as one too many.
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
