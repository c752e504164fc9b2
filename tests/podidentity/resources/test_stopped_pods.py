"""Pods in which no container can run any more, by their status as kubelets write it, in every combination."""

from collections.abc import Mapping, Sequence

import msgspec
import pytest

from podidentity.resources import Pod

STATES = {
    "running": {"running": {"startedAt": "2026-01-01T00:00:00Z"}},
    "terminated": {"terminated": {"exitCode": 0, "reason": "Completed", "containerID": "containerd://a"}},
    "never started": {"terminated": {"exitCode": 128, "startedAt": None, "finishedAt": None}},
    "waiting": {"waiting": {"reason": "CrashLoopBackOff"}},
    "none": {},
}


def pod(
    regular: Sequence[str] = (),
    init: Sequence[str] = (),
    ephemeral: Sequence[str] = (),
    conditions: Mapping[str, str] | None = None,
) -> Pod:
    status = {
        "containerStatuses": [{"name": "c", "state": STATES[each]} for each in regular],
        "initContainerStatuses": [{"name": "i", "state": STATES[each]} for each in init],
        "ephemeralContainerStatuses": [{"name": "e", "state": STATES[each]} for each in ephemeral],
        "conditions": [{"type": kind, "status": value} for kind, value in (conditions or {}).items()],
    }
    return msgspec.json.decode(msgspec.json.encode({"metadata": {"name": "p"}, "status": status}), type=Pod)


@pytest.mark.parametrize(
    ("regular", "init", "ephemeral", "terminated"),
    [
        ([], [], [], False),
        (["running"], [], [], False),
        (["waiting"], [], [], False),
        (["none"], [], [], False),
        (["terminated"], [], [], True),
        (["never started"], [], [], True),
        (["never started", "running"], [], [], False),
        (["terminated", "terminated"], [], [], True),
        (["terminated", "running"], [], [], False),
        (["terminated", "waiting"], [], [], False),
        (["terminated", "none"], [], [], False),
        # Native sidecars and ordinary init containers are in the same list: what counts is that none can run.
        (["terminated"], ["terminated"], [], True),
        (["terminated"], ["running"], [], False),
        (["terminated"], ["waiting"], [], False),
        (["terminated"], ["terminated", "running"], [], False),
        (["running"], ["terminated"], [], False),
        ([], ["terminated"], [], False),
        (["waiting"], ["terminated"], [], False),
        (["terminated"], [], ["terminated"], True),
        (["terminated"], [], ["running"], False),
        (["terminated"], [], ["waiting"], False),
        (["terminated"], ["terminated"], ["terminated"], True),
        (["terminated"], ["terminated"], ["running"], False),
        ([], [], ["terminated"], False),
        ([], ["terminated"], ["terminated"], False),
    ],
)
def test_a_pod_is_terminated_when_each_container_with_a_status_is(
    regular: list[str], init: list[str], ephemeral: list[str], terminated: bool
) -> None:
    found = pod(regular, init, ephemeral)
    assert found.terminated is terminated
    assert found.ending is terminated


def test_a_pod_without_a_status_or_with_truncated_lists_is_not_terminated() -> None:
    documents = [
        b"{}",
        b'{"status":{}}',
        b'{"status":{"containerStatuses":[]}}',
        b'{"status":{"containerStatuses":[{}]}}',
    ]
    assert not any(msgspec.json.decode(document, type=Pod).terminated for document in documents)


@pytest.mark.parametrize(
    ("conditions", "down"),
    [
        ({}, False),
        ({"Ready": "False", "ContainersReady": "False", "PodScheduled": "False"}, False),
        ({"PodReadyToStartContainers": "True"}, False),
        ({"PodReadyToStartContainers": "False"}, True),
        ({"PodReadyToStartContainers": "Unknown"}, False),
        ({"PodHasNetwork": "False"}, True),
        ({"PodHasNetwork": "True"}, False),
        ({"PodHasNetwork": "False", "PodReadyToStartContainers": "True"}, False),
        ({"PodHasNetwork": "True", "PodReadyToStartContainers": "False"}, True),
        ({"Ready": "True", "PodReadyToStartContainers": "False"}, True),
    ],
)
def test_a_sandbox_is_down_if_the_kubelet_reports_it(conditions: dict[str, str], down: bool) -> None:
    found = pod(["running"], conditions=conditions)
    assert found.sandbox_down is down
    assert not found.ending
