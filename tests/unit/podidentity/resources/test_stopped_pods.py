"""Pods in which no container can run any more, and mirror pods, by their documents as kubelets write them."""

import itertools
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
ENDED = {"terminated", "never started"}


def pod(
    regular: Sequence[str] = (),
    init: Sequence[str] = (),
    ephemeral: Sequence[str] = (),
    conditions: Mapping[str, str] | None = None,
) -> Pod:
    status = {
        "containerStatuses": [{"name": "c", "state": STATES[state]} for state in regular],
        "initContainerStatuses": [{"name": "i", "state": STATES[state]} for state in init],
        "ephemeralContainerStatuses": [{"name": "e", "state": STATES[state]} for state in ephemeral],
        "conditions": [{"type": kind, "status": value} for kind, value in (conditions or {}).items()],
    }
    return msgspec.json.decode(msgspec.json.encode({"metadata": {"name": "p"}, "status": status}), type=Pod)


# Native sidecars and ordinary init containers are in the same list: what counts is that none can run.
@pytest.mark.parametrize("init", ["", *STATES])
@pytest.mark.parametrize("ephemeral", ["", *STATES])
def test_a_pod_is_terminated_when_each_container_with_a_status_is_and_a_regular_one_has_one(
    init: str, ephemeral: str
) -> None:
    for regular in [states for number in range(3) for states in itertools.product(STATES, repeat=number)]:
        others = [state for state in (init, ephemeral) if state]
        decoded = pod(regular, [init] if init else [], [ephemeral] if ephemeral else [])
        assert decoded.terminated is (bool(regular) and ENDED.issuperset([*regular, *others]))
        assert decoded.ending is decoded.terminated


@pytest.mark.parametrize("status", [b"{}", b'{"containerStatuses":[{}]}'])
def test_a_pod_without_a_status_or_with_truncated_lists_is_not_terminated(status: bytes) -> None:
    assert not msgspec.json.decode(b'{"status":%s}' % status, type=Pod).terminated


@pytest.mark.parametrize("ready", [None, "True", "False", "Unknown"])
@pytest.mark.parametrize("network", [None, "True", "False", "Unknown"])
def test_a_sandbox_is_down_if_the_kubelet_reports_it_in_its_newer_condition_or_else_in_the_older_one(
    ready: str | None, network: str | None
) -> None:
    reported = {"PodReadyToStartContainers": ready, "PodHasNetwork": network}
    others = {"Ready": "False", "ContainersReady": "False", "PodScheduled": "False"}
    decoded = pod(["running"], conditions=others | {key: value for key, value in reported.items() if value})
    assert decoded.sandbox_down is ((ready or network) == "False")
    assert not decoded.ending


NODE_OWNER = b'{"ownerReferences":[{"apiVersion":"v1","kind":"Node","name":"n","uid":"u","controller":true}]}'


def read(metadata: bytes) -> Pod:
    return decode_object(PODS, b'{"metadata":%s}' % metadata)


MIRROR: dict[str, tuple[bytes, bool]] = {
    "owned by a node": (NODE_OWNER, True),
    "annotated": (b'{"annotations":{"kubernetes.io/config.mirror":"0123456789abcdef"}}', True),
    "annotated, empty": (b'{"annotations":{"a":"b","kubernetes.io/config.mirror":""}}', True),
    "owned by several": (
        b'{"ownerReferences":[{"apiVersion":"apps/v1","kind":"ReplicaSet"},{"apiVersion":"v1","kind":"Node"}]}',
        True,
    ),
    "plain": (b"{}", False),
    "no annotations": (b'{"annotations":{}}', False),
    "nulls": (b'{"annotations":null,"ownerReferences":null}', False),
    "other marks": (
        b'{"annotations":{"kubernetes.io/config.hash":"x","kubernetes.io/config.source":"api"}}',
        False,
    ),
    "another key": (b'{"annotations":{"kubernetes.io/config.mirror.example":"x"}}', False),
    "a label": (b'{"labels":{"kubernetes.io/config.mirror":"x"}}', False),
    "a daemon set": (NODE_OWNER.replace(b'"v1"', b'"apps/v1"').replace(b'"Node"', b'"DaemonSet"'), False),
    "another kind of node": (NODE_OWNER.replace(b'"v1"', b'"infra.example/v1"'), False),
}


@pytest.mark.parametrize("case", MIRROR)
def test_a_pod_created_by_a_kubelet_is_a_mirror_pod_and_no_other_is(case: str) -> None:
    metadata, mirror = MIRROR[case]
    assert read(metadata).mirror is mirror


def test_no_text_of_an_annotation_is_kept() -> None:
    value = b"x" * 200_000
    pod = read(b'{"annotations":{"kubernetes.io/config.mirror":"%s","other":"%s"}}' % (value, value))
    marks = pod.metadata.marks
    assert pod.mirror
    assert marks is not None
    assert marks.mirror == ""
    assert sys.getsizeof(marks) < 100
