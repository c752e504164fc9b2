"""The owner of an address by the starts of containers. Excluded: the callers."""

import msgspec
import pytest

from nmi.identity.container_starts import owner_of, started_after
from podidentity.resources import ContainerState, ContainerStatus, Pod, Running, Terminated
from tests.support.nmi_objects import pod
from tests.support.objects import started_at

MIDNIGHT = 1_767_225_600.0
"""2026-01-01T00:00:00Z."""


def a_pod(*states: ContainerState, last: ContainerState | None = None, phase: str = "Running") -> Pod:
    made = pod(phase=phase)
    statuses = [ContainerStatus(state=each, last_state=last or ContainerState()) for each in states]
    return msgspec.structs.replace(made, status=msgspec.structs.replace(made.status, container_statuses=statuses))


def running(second: int) -> ContainerState:
    return ContainerState(running=Running(started_at=started_at(second)))


def ended(second: int) -> ContainerState:
    return ContainerState(terminated=Terminated(started_at=started_at(second)))


WAITING = ContainerState()
UNKNOWN_END = ContainerState(terminated=Terminated())
OLDER = a_pod(running(10))

LATER_ONE: dict[str, Pod] = {
    "runs": a_pod(running(11)),
    "a second container was started later": a_pod(running(5), running(11)),
    "is being deleted": msgspec.structs.replace(a_pod(running(11)), metadata=pod(deleting=True).metadata),
    "one container has ended": a_pod(running(11), ended(3)),
}
NO_OWNER: dict[str, Pod] = {
    "the same second": a_pod(running(10)),
    "ended, and was started later": a_pod(ended(11)),
    "finished, and was started later": a_pod(ended(11), phase="Succeeded"),
    "waits for a restart, and was started later": a_pod(WAITING, last=ended(11)),
    "no container has been started": a_pod(WAITING),
    "no status of a container": a_pod(),
    "a time that is none": a_pod(ContainerState(running=Running(started_at="soon"))),
    "ended at an unknown time": a_pod(UNKNOWN_END),
    "its sandbox is down, and was started later": msgspec.structs.replace(
        pod(sandbox=False), status=msgspec.structs.replace(pod(sandbox=False, started=11).status)
    ),
}
OLDER_ONE_HAS_IT: dict[str, Pod] = {
    "runs": a_pod(running(9)),
    "ended": a_pod(ended(9)),
    "waits for a restart": a_pod(WAITING, last=ended(9)),
    "finished": a_pod(ended(9), phase="Failed"),
    "finished without having run": a_pod(phase="Failed"),
}


@pytest.mark.parametrize("case", LATER_ONE)
def test_the_pod_whose_containers_started_later_owns_the_address(case: str) -> None:
    later = LATER_ONE[case]
    assert owner_of([OLDER, later]) is later
    assert owner_of([later, OLDER]) is later


@pytest.mark.parametrize("case", NO_OWNER)
def test_an_address_has_no_owner_if_the_start_order_is_uncertain(case: str) -> None:
    assert owner_of([OLDER, NO_OWNER[case]]) is None
    assert owner_of([NO_OWNER[case], OLDER]) is None


@pytest.mark.parametrize("case", OLDER_ONE_HAS_IT)
def test_a_pod_that_started_earlier_does_not_contest_the_address(case: str) -> None:
    assert owner_of([OLDER_ONE_HAS_IT[case], OLDER]) is OLDER


def test_a_pod_listed_alone_owns_the_address_unless_it_has_finished() -> None:
    assert owner_of([]) is None
    for alone in (OLDER, a_pod(WAITING), a_pod(ended(3))):
        assert owner_of([alone]) is alone
    assert owner_of([a_pod(ended(3), phase="Succeeded")]) is None


def test_of_three_pods_the_last_started_one_owns_the_address() -> None:
    last = a_pod(running(12))
    assert owner_of([OLDER, last, a_pod(ended(11))]) is last
    assert owner_of([OLDER, last, a_pod(ended(13))]) is None


def test_only_a_running_container_counts_as_started_after_a_given_time() -> None:
    assert started_after(a_pod(running(1)), MIDNIGHT)
    assert not started_after(a_pod(running(0)), MIDNIGHT)
    assert not started_after(a_pod(ended(1), WAITING), MIDNIGHT)
