"""When containers of a pod were started, and what follows from it about its address. Pure.

The kubelet takes these times from the node's clock, which is NMI's as well, and rounds them down to whole seconds. The
sandbox of a pod is made at an address only after the former owner's sandbox is gone, and containers are started in a
sandbox. So of two pods at one address the one with the later start owns it, and a container that was started after a
change of the node's network runs in a sandbox that is younger than the change.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final

from podidentity.resources import Pod

NEVER: Final = float("-inf")


def started_after(pod: Pod, moment: float) -> bool:
    """Whether a container of *pod* runs that was certainly started after *moment* (seconds since the epoch)."""
    return newest_running(pod) > moment


def owner_of(pods: Sequence[Pod]) -> Pod | None:
    """Which of *pods*, which are all that are listed at one address, owns it; None where that is not certain.

    One that is listed alone owns it. Of several it is the one in which a container runs that was started later than
    every container of the others, ended or not. That a pod is being deleted, or has ended, is no reason for another
    one: it may have got the address last.
    """
    if len(pods) == 1:
        return None if pods[0].finished else pods[0]
    for pod in pods:
        newest = NEVER if pod.finished or pod.terminated or pod.sandbox_down else newest_running(pod)
        if newest > max((_latest(other) for other in pods if other is not pod), default=NEVER):
            return pod
    return None


def newest_running(pod: Pod) -> float:
    """The start of the container that was started last of those that run: seconds since the epoch, or NEVER."""
    running = (each.state.running for each in pod.status.all_containers)
    return _newest(each.started_at for each in running if each is not None)


def _latest(pod: Pod) -> float:
    """The start of the container that was started last, whether it runs or not.

    Where that is not known: infinity, or minus infinity for a pod that has finished.
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
