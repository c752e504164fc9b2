"""Log lines and Events about identities and bindings that MIC ignores, for their authors.

Each object is reported when it is ignored first and after each change of it. The number of reports is limited, since a
tenant can write thousands of such objects, and change them as often: the metric counts all.
"""

import logging
import time
from collections.abc import Callable
from typing import Any, Final

from podidentity.kube.events import EventRecorder
from podidentity.resources import BINDINGS, IDENTITIES, AzureIdentity, AzureIdentityBinding, Kind
from podidentity.telemetry.token_bucket import TokenBucket

log = logging.getLogger(__name__)

REPORTS_BURST: Final = 100.0
REPORTS_PER_SECOND: Final = 0.5
"""Objects reported, of all namespaces together: a tenth of the Events that MIC may write."""
NAMESPACE_BURST: Final = 20.0
NAMESPACE_PER_SECOND: Final = 0.05
"""The same for objects of one namespace."""
NAMESPACES_MAX: Final = 1024
"""Namespaces whose reports are counted. Beyond that all namespaces begin with a full allowance again."""

INVALID: Final = "invalid identity"
IGNORED: Final = "binding ignored"


class IgnoredObjects:
    """The reports. `identity` and `binding` may be called from anywhere in the loop and never block."""

    def __init__(
        self, recorder: EventRecorder, count: Callable[[], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """*count* is called for each object, also for those that are not reported."""
        self._recorder = recorder
        self._count = count
        self._clock = clock
        self._all = TokenBucket(REPORTS_PER_SECOND, REPORTS_BURST, clock)
        self._namespaces: dict[str, TokenBucket] = {}

    def identity(self, identity: AzureIdentity, why: str) -> None:
        """Report that no pod can have *identity*."""
        if self._may_report(identity.metadata.namespace):
            about = {"identity": "/".join(identity.key), "reason": why}
            log.warning("an AzureIdentity cannot be used; correct it", extra=about)
            self._record(identity, IDENTITIES, INVALID, why)

    def binding(self, binding: AzureIdentityBinding, why: str) -> None:
        """Report that pods do not get what *binding* names."""
        if self._may_report(binding.metadata.namespace):
            about = {"binding": "/".join(binding.key), "reason": why}
            log.warning("an AzureIdentityBinding is ignored; correct or delete it", extra=about)
            self._record(binding, BINDINGS, IGNORED, why)

    def _record(self, about: AzureIdentity | AzureIdentityBinding, kind: Kind[Any], reason: str, why: str) -> None:
        self._recorder.record(about, kind, "Warning", reason, why)

    def _may_report(self, namespace: str) -> bool:
        self._count()
        if namespace not in self._namespaces and len(self._namespaces) >= NAMESPACES_MAX:
            self._namespaces.clear()
        of_one = self._namespaces.get(namespace)
        if of_one is None:
            of_one = self._namespaces[namespace] = TokenBucket(NAMESPACE_PER_SECOND, NAMESPACE_BURST, self._clock)
        return of_one.take() and self._all.take()
