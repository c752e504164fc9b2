"""Canary pods of a killed command: the next one deletes them when no command can wait for them any more."""

from datetime import UTC, datetime

import msgspec
import pytest

from podidctl.verify.objects import Canary
from podidctl.verify.verification import LEFTOVER_SECONDS, NAME_PREFIX, _is_leftover

CREATED = "2026-11-28T00:00:00Z"


def pod(name: str = f"{NAME_PREFIX}1", created: str | None = CREATED) -> Canary:
    metadata = {"name": name, "creationTimestamp": created}
    return msgspec.convert({"metadata": metadata, "spec": {"activeDeadlineSeconds": 90}}, Canary)


@pytest.mark.parametrize(("seconds", "leftover"), [(0, False), (90, False), (150, False), (151, True), (9000, True)])
def test_it_is_one_a_minute_after_its_deadline(seconds: int, leftover: bool) -> None:
    assert LEFTOVER_SECONDS == 60
    now = datetime.fromtimestamp(datetime.fromisoformat(CREATED).timestamp() + seconds, UTC)
    assert _is_leftover(pod(), now) is leftover


@pytest.mark.parametrize("found", [pod("other"), pod(created=None), pod(created="yesterday")])
def test_a_pod_that_is_not_certainly_one_stays(found: Canary) -> None:
    assert not _is_leftover(found, datetime(2027, 1, 1, tzinfo=UTC))
