"""Detection of mirror pods in the API server's form, and the part of their annotations that is kept."""

import sys

import pytest

from podidentity.kube.decoding import decode_object
from podidentity.resources import PODS, Pod

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
