"""Start times of a pod's containers, and what follows from them about the pod's address. Pure.

The kubelet takes these times from the node's clock, which NMI also uses, and rounds them down to whole seconds. A pod's
sandbox is created at an address only after the former owner's sandbox is gone, and containers start in a sandbox. So of
two pods at one address the one with the later start owns it, and a container that started after a change of the node's
network runs in a sandbox that is younger than the change.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final

from podidentity.resources import Pod

NEVER: Final = float("-inf")


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
        newest = NEVER if pod.finished or pod.terminated or pod.sandbox_down else newest_running(pod)
        if newest > max((_latest(other) for other in pods if other is not pod), default=NEVER):
            return pod
    return None


def newest_running(pod: Pod) -> float:
    """Return the start of the running container that started last: seconds since the epoch, or NEVER."""
    running = (each.state.running for each in pod.status.all_containers)
    return _newest(each.started_at for each in running if each is not None)


def _latest(pod: Pod) -> float:
    """Return the start of the container that started last, running or not.

    If it is unknown: infinity, or minus infinity for a finished pod.
    """
    times = []
    for each in pod.status.all_containers:
        for state in (each.state, each.last_state):
            times += [found.started_at for found in (state.running, state.terminated) if found is not None]
    newest = _newest(times)
    return newest if newest > NEVER or pod.finished else float("inf")


def _newest(times: Iterable[str | None]) -> float:
    return max((_seconds(each) for each in times), default=NEVER)


def _seconds(text: str | None) -> float:
    """Return seconds since the epoch; minus infinity if *text* is not a time."""
    if text is None:
        return NEVER
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        return NEVER
