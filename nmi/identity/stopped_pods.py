"""Pods that may have lost their address: their requests are held briefly, then refused. Pure.

The kubelet releases a sandbox's address as soon as nothing runs in it, and reports that later than the next pod may ask
from the same address. Presence, uid, phase and address of the former pod stay the same meanwhile. So no read can
confirm a pod whose containers have all terminated, or whose sandbox is not ready: it gets no token at all.
"""

from typing import Final, Protocol

from nmi.identity.decide import Wait
from nmi.refusal import Reason, Refusal

HOLD_SECONDS: Final = 5.0
"""A container that restarts is terminated for a second or two; the new one may ask before the kubelet reports it."""

TERMINATED: Final = Refusal(
    Reason.SUSPENDED,
    "No container of this pod is reported to run; try again.",
    "all containers of the pod have terminated, so that its address may be another pod's: if it runs, find out why its "
    "kubelet does not report it",
)
SANDBOX_DOWN: Final = Refusal(
    Reason.SUSPENDED,
    "The sandbox of this pod is reported not to be ready; try again.",
    "the pod's condition PodReadyToStartContainers is False, so that its address may be another pod's: if it runs, "
    "find out why its kubelet does not report it",
)
SUSPENDED: Final = Refusal(
    Reason.SUSPENDED,
    "The address of this pod has just changed on its node; try again.",
    "an interface, route or link-layer address behind the pod's address is another one, and the API server has not "
    "reported yet whose the address is: see NMI's log and /debug/state for the evidence",
)


class PodState(Protocol):
    """What is known of a pod: by the watch (`PodEntry`), or by a read (`Pod`)."""

    @property
    def terminated(self) -> bool: ...

    @property
    def sandbox_down(self) -> bool: ...


class EntryState(PodState, Protocol):
    """What is known of a pod besides by local evidence: `PodEntry`."""

    @property
    def suspended(self) -> bool: ...


def wait_if_stopped(pod: PodState, *, named: bool) -> Wait | None:
    """Why requests of *pod* are held and then refused, or None where its state is no reason.

    *named*: a process of the node named the pod, whose address plays no part then. The kubelet mounts volumes before
    the sandbox exists, so the sandbox is no reason then.
    """
    if pod.terminated:
        return Wait(HOLD_SECONDS, TERMINATED)
    if pod.sandbox_down and not named:
        return Wait(HOLD_SECONDS, SANDBOX_DOWN)
    return None


def wait_if_suspended(entry: EntryState, *, named: bool) -> Wait | None:
    """Likewise for a pod as the watch and the node's own network show it."""
    if entry.suspended and not named:
        return Wait(HOLD_SECONDS, SUSPENDED)
    return wait_if_stopped(entry, named=named)
