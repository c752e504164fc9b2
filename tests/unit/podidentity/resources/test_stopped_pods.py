"""Pods in which no container can run any more, and mirror pods, by their documents as kubelets write them."""

import sys
from collections.abc import Mapping, Sequence

import msgspec
import pytest

from podidentity.kube.decoding import decode_object
from podidentity.resources import PODS, Pod

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


NODE_OWNER = b'{"ownerReferences":[{"apiVersion":"v1","kind":"Node","name":"n","uid":"u","controller":true}]}'


def read(metadata: bytes) -> Pod:
    return decode_object(PODS, b'{"metadata":%s}' % metadata)


@pytest.mark.parametrize(
    "metadata",
    [
        NODE_OWNER,
        b'{"annotations":{"kubernetes.io/config.mirror":"0123456789abcdef"}}',
        b'{"annotations":{"a":"b","kubernetes.io/config.mirror":""}}',
        b'{"ownerReferences":[{"apiVersion":"apps/v1","kind":"ReplicaSet"},{"apiVersion":"v1","kind":"Node"}]}',
    ],
    ids=["owned-by-a-node", "annotated", "annotated-empty", "owned-by-several"],
)
def test_a_pod_created_by_a_kubelet_is_a_mirror_pod(metadata: bytes) -> None:
    assert read(metadata).mirror


@pytest.mark.parametrize(
    "metadata",
    [
        b"{}",
        b'{"annotations":{}}',
        b'{"annotations":null,"ownerReferences":null}',
        b'{"annotations":{"kubernetes.io/config.hash":"x","kubernetes.io/config.source":"api"}}',
        b'{"annotations":{"kubernetes.io/config.mirror.example":"x"}}',
        b'{"labels":{"kubernetes.io/config.mirror":"x"}}',
        b'{"ownerReferences":[{"apiVersion":"apps/v1","kind":"DaemonSet","name":"n","controller":true}]}',
        b'{"ownerReferences":[{"apiVersion":"infra.example/v1","kind":"Node","name":"n","controller":true}]}',
    ],
    ids=[
        "plain",
        "no-annotations",
        "nulls",
        "other-marks",
        "another-key",
        "a-label",
        "a-daemon-set",
        "another-kind-of-node",
    ],
)
def test_another_pod_is_not_a_mirror_pod(metadata: bytes) -> None:
    assert not read(metadata).mirror


def test_no_text_of_an_annotation_is_kept() -> None:
    value = b"x" * 200_000
    pod = read(b'{"annotations":{"kubernetes.io/config.mirror":"%s","other":"%s"}}' % (value, value))
    marks = pod.metadata.marks
    assert pod.mirror
    assert marks is not None
    assert marks.mirror == ""
    assert sys.getsizeof(marks) < 100
