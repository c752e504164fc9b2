"""Pods that may have lost their address: their requests are held briefly, then refused. Pure.

The kubelet releases a sandbox's address as soon as nothing runs in it. It reports that later than the next pod may send
a request from the same address. Until then presence, uid, phase and address of the former pod do not change. So no read
can confirm a pod whose containers have all terminated, or whose sandbox is not ready: it gets no token.
"""

from typing import Final

from nmi.identity.decide import Wait
from nmi.refusal import Reason, Refusal
from podidentity.resources import Pod

HOLD_SECONDS: Final = 5.0
"""A restarting container is terminated for a second or two. The new one may send a request before the kubelet reports
it."""

TERMINATED: Final = Refusal(
    Reason.SUSPENDED,
    "No container of this pod is reported to run; try again.",
    "all containers of the pod have terminated, so another pod may have its address: if the pod runs, find out why its "
    "kubelet does not report it",
)
SANDBOX_DOWN: Final = Refusal(
    Reason.SUSPENDED,
    "The sandbox of this pod is reported not to be ready; try again.",
    "the pod's condition PodReadyToStartContainers is False, so another pod may have its address: if the pod runs, "
    "find out why its kubelet does not report it",
)
SUSPENDED: Final = Refusal(
    Reason.SUSPENDED,
    "The address of this pod has just changed on its node; try again.",
    "an interface, route or link-layer address behind the pod's address has changed, and the API server has not "
    "reported the new owner of the address yet: see NMI's log and /debug/state for the evidence",
)


_ADDRESS: Final = ("address", "")
"""What such a request waits for: a report about the owner of the address."""


def wait_if_stopped(pod: Pod, *, named: bool, suspended: bool = False) -> Wait | None:
    """Return the Wait for requests of *pod*, as the watch or a read reported it, if its state requires one, else None.

    *named*: a process of the node named the pod, so its address does not matter. The kubelet mounts volumes before the
    sandbox exists, so the state of the sandbox does not matter then either.

    *suspended*: local evidence shows that the pod's address changed its owner.
    """
    if suspended and not named:
        return _wait(SUSPENDED)
    if pod.terminated:
        return _wait(TERMINATED)
    if pod.sandbox_down and not named:
        return _wait(SANDBOX_DOWN)
    return None


def _wait(refusal: Refusal) -> Wait:
    return Wait(HOLD_SECONDS, refusal, _ADDRESS, in_progress=True)
