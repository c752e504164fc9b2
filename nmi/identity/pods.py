"""The properties of a pod that decisions depend on, and what follows from the start times of its containers about its
address. Pure, and without `_native`, because podidctl calls these functions too.

The kubelet takes these times from the node's clock, which NMI also uses, and rounds them down to whole seconds. A pod's
sandbox is created at an address only after the former owner's sandbox is gone, and containers start in a sandbox. So of
two pods at one address the one with the later start owns it, and a container that started after a change of the node's
network runs in a sandbox that is younger than the change.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final

from nmi.identity.decide import PodFacts
from podidentity.resources import Pod

NEVER: Final = float("-inf")
"""The start of a container that has not started."""


def facts(pod: Pod, exempt: str = "") -> PodFacts:
    """Return the properties of *pod* that a decision depends on; *exempt* comes from `exemptions`."""
    metadata = pod.metadata
    return PodFacts(metadata.namespace, metadata.name, metadata.uid, pod.binding_label, exempt, pod.mirror)


def own_addresses(pod: Pod) -> tuple[str, ...]:
    """Return the addresses that are the pod's alone: none if it uses the host's network."""
    return () if pod.spec.host_network else pod.addresses


def started_after(pod: Pod, moment: float) -> bool:
    """Return whether a container of *pod* runs that certainly started after *moment* (seconds since the epoch)."""
    return newest_running(pod) > moment


def owner_of(pods: Sequence[Pod]) -> Pod | None:
    """Return the owner of an address among *pods*, all pods that are listed there; None if that is not certain.

    A pod that is listed alone owns the address. Of several pods it is the one in which a container runs that started
    later than every container of the others, ended or not. A pod that is being deleted, or has ended, does not lose the
    address to another pod for that reason: it may have got the address last.
    """
    if len(pods) == 1:
        return None if pods[0].finished else pods[0]
    for pod in pods:
        # A pod without a running container may have lost the address, so it cannot win it.
        newest = NEVER if pod.finished or pod.terminated or pod.sandbox_down else newest_running(pod)
        if newest > max((_latest(rival) for rival in pods if rival is not pod), default=NEVER):
            return pod
    return None


def newest_running(pod: Pod) -> float:
    """Return the start of the running container that started last: seconds since the epoch, or NEVER."""
    running = (container.state.running for container in pod.status.all_containers)
    return _newest(state.started_at for state in running if state is not None)


def _latest(pod: Pod) -> float:
    """Return the start of the container that started last, running or not.

    If it is unknown: infinity, or minus infinity for a finished pod.
    """
    times = []
    for container in pod.status.all_containers:
        for state in (container.state, container.last_state):
            times += [phase.started_at for phase in (state.running, state.terminated) if phase is not None]
    newest = _newest(times)
    # A pod whose start is unknown may have got the address last, so no other pod may win it.
    return newest if newest > NEVER or pod.finished else float("inf")


def _newest(times: Iterable[str | None]) -> float:
    return max((_seconds(text) for text in times), default=NEVER)


def _seconds(text: str | None) -> float:
    """Return seconds since the epoch; minus infinity if *text* is not a time."""
    if text is None:
        # A text that is no time proves no start.
        return NEVER
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        return NEVER
