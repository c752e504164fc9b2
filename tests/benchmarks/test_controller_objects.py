"""MIC reads the synthesised watch stream: a small stream has the expected result."""

from benchmarks.controller.reading_cost import EVENTS, feed
from benchmarks.controller.stream import Size

SMALL = Size(pods=120, nodes=60, bindings=6)


async def test_a_small_cluster_is_read_and_requires_no_change() -> None:
    fed = await feed(SMALL)  # which asserts what the view makes of it
    assert (fed.pods, fed.nodes, fed.bindings) == (120, 60, 6)
    assert SMALL.pods < EVENTS
    assert 0 < fed.sync_cpu_seconds < 30
    assert fed.arm_calls == 30 + 2, "a GET for each VM and each scale set"
    assert min(fed.unrelated_event_us, fed.node_event_us, fed.new_pod_us, fed.own_write_us) > 0
