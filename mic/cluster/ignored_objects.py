"""Log lines and Events about identities and bindings that MIC ignores, for their authors.

Each object is reported when it is ignored first and after each change of it. The number of reports is limited, since a
tenant can write thousands of such objects, and change them as often: the metric counts all.
"""

import logging
import time
from collections.abc import Callable
from typing import Final

from podidentity.kube.events import EventRecorder
from podidentity.kube.object_reports import ObjectReports, Rate
from podidentity.resources import BINDINGS, IDENTITIES, AzureIdentity, AzureIdentityBinding

log = logging.getLogger(__name__)

REPORTS: Final = Rate(burst=100.0, per_second=0.5)
"""Objects reported: a tenth of the Events that MIC may write."""
OMISSION: Final = "more ignored objects than are logged individually; see the metric mic_ignored_objects_total"

INVALID: Final = "invalid identity"
IGNORED: Final = "binding ignored"


class IgnoredObjects:
    """The reports. `identity` and `binding` may be called from anywhere in the loop and never block."""

    def __init__(
        self, recorder: EventRecorder, count: Callable[[], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """*count* is called for each object, also for those that are not reported."""
        self._count = count
        self._reports = ObjectReports(
            lines=REPORTS, events=REPORTS, omission=OMISSION, record=recorder.record, clock=clock
        )

    def identity(self, identity: AzureIdentity, reason: str) -> None:
        """Report that no pod can have *identity*."""
        self._count()
        if self._reports.may_log(identity.metadata.namespace):
            about = {"identity": "/".join(identity.key), "reason": reason}
            log.warning("an AzureIdentity cannot be used; correct it", extra=about)
        self._reports.warn(identity.metadata.namespace, identity, IDENTITIES, INVALID, reason)

    def binding(self, binding: AzureIdentityBinding, reason: str) -> None:
        """Report that pods do not get what *binding* names."""
        self._count()
        if self._reports.may_log(binding.metadata.namespace):
            about = {"binding": "/".join(binding.key), "reason": reason}
            log.warning("an AzureIdentityBinding is ignored; correct or delete it", extra=about)
        self._reports.warn(binding.metadata.namespace, binding, BINDINGS, IGNORED, reason)
