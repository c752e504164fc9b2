"""Ways in which a pod reaches the identities of its node without NMI's decision. Pure.

Pods in the node's network are not redirected to NMI; a pod that can take over its node enters that network; NMI
forwards the requests of exempt pods; and on a node without NMI, IMDS answers every pod.
"""

from collections.abc import Iterator

from nmi.identity.exemptions import MIC
from podidctl.access.host_paths import Effect
from podidctl.access.pod_settings import node_settings
from podidctl.access.projections import ReviewedPod
from podidctl.access.schema import HostAccess, Way


def host_access(pod: ReviewedPod, exempt: str, *, nmi_missing: str = "") -> list[HostAccess]:
    """Return the ways, in the order of `Way`. *exempt*: why NMI exempts the pod; *nmi_missing*: why its
    node has no NMI, so that IMDS responds to the pod.
    """
    return list(_ways(pod, "" if pod.mirror else exempt, nmi_missing=nmi_missing))


def undecided_access(pod: ReviewedPod) -> list[HostAccess]:
    """Return the settings by which the pod may reach them, depending on facts that the API server does not show."""
    return [access for effect, access in node_settings(pod.spec) if effect is Effect.UNDECIDED]


def _ways(pod: ReviewedPod, exempt: str, *, nmi_missing: str) -> Iterator[HostAccess]:
    if pod.spec.host_network:
        yield HostAccess(way=Way.HOST_NETWORK)
    yield from (access for effect, access in node_settings(pod.spec) if effect is Effect.TAKES_OVER)
    if exempt:
        yield (
            HostAccess(way=Way.MIC)
            if exempt == MIC
            else HostAccess(way=Way.EXCEPTION, detail=exempt.removeprefix("exception "))
        )
    if nmi_missing:
        yield HostAccess(way=Way.NO_NMI, detail=nmi_missing)
