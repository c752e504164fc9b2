"""The outcome of a canary pod, from the status that a kubelet writes, and the pods of a killed command."""

import json
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from podidctl.verify.objects import Canary
from podidctl.verify.outcome import NotRun, late, outcome_of
from podidctl.verify.verification import LEFTOVER_SECONDS, NAME_PREFIX, _is_leftover


def pod(state: dict[str, Any] | None = None, *, name: str = "canary", **status: Any) -> Canary:
    statuses = [{"name": name, "state": state}] if state is not None else []
    document = {"metadata": {"name": "c"}, "status": {"phase": "Pending", "containerStatuses": statuses, **status}}
    return msgspec.convert(document, Canary)


def reason(found: object) -> tuple[str, str]:
    assert isinstance(found, NotRun)
    return found.why, found.then


def test_the_message_of_the_ended_container_is_the_result() -> None:
    message = json.dumps([{"who": "nmi", "source": "10.0.0.9", "status": 404, "server": "", "text": "x"}])
    found = outcome_of(pod({"terminated": {"exitCode": 0, "message": message}}))
    assert isinstance(found, tuple)
    assert (found[0].who, found[0].source, found[0].status) == ("nmi", "10.0.0.9", 404)


@pytest.mark.parametrize("message", [None, "", "[]", "not json", '{"who": "nmi"}', '[{"status": "x"}]'])
def test_a_container_without_a_result_is_unknown(message: str | None) -> None:
    why, _ = reason(outcome_of(pod({"terminated": {"exitCode": 127, "reason": "StartError", "message": message}})))
    assert "exit code 127, StartError" in why


@pytest.mark.parametrize("state", [None, {}, {"running": {}}, {"waiting": {"reason": "ContainerCreating"}}])
def test_a_starting_pod_has_no_outcome_yet(state: dict[str, Any] | None) -> None:
    assert outcome_of(pod(state)) is None


def test_the_first_failed_pull_is_not_final() -> None:
    assert outcome_of(pod({"waiting": {"reason": "ErrImagePull", "message": "no such host"}})) is None


@pytest.mark.parametrize("cause", ["ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"])
def test_an_image_that_cannot_be_pulled_is_named(cause: str) -> None:
    why, then = reason(outcome_of(pod({"waiting": {"reason": cause, "message": "no such host"}})))
    assert f"{cause}: no such host" in why
    assert "image" in then


@pytest.mark.parametrize("cause", ["CreateContainerConfigError", "CreateContainerError", "RunContainerError"])
def test_a_container_that_the_runtime_refuses_is_named(cause: str) -> None:
    why, _ = reason(outcome_of(pod({"waiting": {"reason": cause, "message": "runAsNonRoot"}})))
    assert f"{cause}: runAsNonRoot" in why


def test_a_node_without_resources_refuses_the_pod() -> None:
    found = outcome_of(pod(phase="Failed", reason="OutOfcpu", message="Node didn't have enough resource"))
    assert "OutOfcpu: Node didn't have enough resource" in reason(found)[0]


def test_a_pod_that_ended_at_its_deadline_is_unknown() -> None:
    found = outcome_of(pod({"running": {}}, phase="Failed", reason="DeadlineExceeded"))
    assert "DeadlineExceeded" in reason(found)[0]


def test_a_sidecar_of_a_mesh_is_not_the_canary() -> None:
    assert outcome_of(pod({"terminated": {"exitCode": 0, "message": "[]"}}, name="istio-proxy")) is None


def test_a_pod_that_another_program_deletes_is_unknown() -> None:
    document = {"metadata": {"name": "c", "deletionTimestamp": "2026-11-28T00:00:00Z"}}
    assert "deleted" in reason(outcome_of(msgspec.convert(document, Canary)))[0]


@pytest.mark.parametrize(
    ("state", "text"),
    [
        (None, "the node's kubelet did not start the canary within 60 s"),
        ({"running": {}}, "the canary did not end within 60 s"),
        ({"waiting": {"reason": "ContainerCreating"}}, "ContainerCreating"),
        ({"waiting": {"reason": "ErrImagePull", "message": "denied"}}, "ErrImagePull: denied"),
    ],
)
def test_a_late_canary_states_how_far_it_came(state: dict[str, Any] | None, text: str) -> None:
    assert text in late(pod(state), 60).why


def test_a_canary_that_could_not_be_read_was_not_started() -> None:
    assert "did not start" in late(None, 60).why


CREATED = "2026-11-28T00:00:00Z"


def created_pod(name: str = f"{NAME_PREFIX}1", created: str | None = CREATED) -> Canary:
    metadata = {"name": name, "creationTimestamp": created}
    return msgspec.convert({"metadata": metadata, "spec": {"activeDeadlineSeconds": 90}}, Canary)


@pytest.mark.parametrize(("seconds", "leftover"), [(0, False), (90, False), (150, False), (151, True), (9000, True)])
def test_it_is_one_a_minute_after_its_deadline(seconds: int, leftover: bool) -> None:
    assert LEFTOVER_SECONDS == 60
    now = datetime.fromtimestamp(datetime.fromisoformat(CREATED).timestamp() + seconds, UTC)
    assert _is_leftover(created_pod(), now) is leftover


@pytest.mark.parametrize("found", [created_pod("other"), created_pod(created=None), created_pod(created="yesterday")])
def test_a_pod_that_is_not_certainly_one_stays(found: Canary) -> None:
    assert not _is_leftover(found, datetime(2027, 1, 1, tzinfo=UTC))
