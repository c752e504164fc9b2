"""A canary pod that the API server refuses: by its own rules, by a policy, or by a webhook, which sends 400."""

import pytest

from podidctl.verify.canary_outcome import NotRun
from podidctl.verify.canary_runner import CanaryRunner
from tests.support.podidctl.memory_cluster import MemoryCluster


@pytest.mark.parametrize(
    ("status", "text", "deletes"),
    [
        (400, "the API server refused the canary pod: refused by the test", 0),
        (403, "the API server refused the canary pod: refused by the test", 0),
        (422, "the API server refused the canary pod: refused by the test", 0),
        (500, "it is not known whether the API server created the canary pod", 1),
    ],
)
async def test_only_a_canary_that_may_exist_is_deleted(
    cluster: MemoryCluster, status: int, text: str, deletes: int
) -> None:
    cluster.api.refuse(status, "", "POST")
    outcome = await CanaryRunner(cluster.client).run(
        {"metadata": {"name": "c", "namespace": "default"}, "spec": {}}, 1.0
    )
    assert isinstance(outcome, NotRun)
    assert outcome.reason.startswith(text)
    assert cluster.api.written("/pods").count("DELETE") == deletes
