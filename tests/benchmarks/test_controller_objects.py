"""MIC reads the synthesised watch stream: a small stream has the expected result."""

import json

from benchmarks.controller import stream
from benchmarks.controller.reading_cost import EVENTS, feed
from benchmarks.controller.stream import Size
from podidentity.kube.decoding import decode_event, decode_object, split_list
from podidentity.resources import ASSIGNED_IDENTITIES, BINDING_LABEL, NODES, PODS

SMALL = Size(pods=120, nodes=60, bindings=6)


async def test_a_small_cluster_is_read_and_requires_no_change() -> None:
    fed = await feed(SMALL)  # which asserts what the view makes of it
    assert (fed.pods, fed.nodes, fed.bindings) == (120, 60, 6)
    assert SMALL.pods < EVENTS
    assert 0 < fed.sync_cpu_seconds < 30
    assert fed.arm_calls == 30 + 2, "a GET for each VM and each scale set"
    assert min(fed.unrelated_event_us, fed.node_event_us, fed.new_pod_us, fed.own_write_us) > 0


def test_pages_contain_every_object_once_and_a_continue_token() -> None:
    pages = [split_list(body) for body in stream.pages(PODS, SMALL, 50)]
    assert [len(page.items) for page in pages] == [50, 50, 20]
    assert [page.continue_token for page in pages] == ["from-50", "from-100", ""]
    names = [decode_object(PODS, item).metadata.name for page in pages for item in page.items]
    assert len(set(names)) == SMALL.pods


def test_an_assigned_identity_names_its_pod_and_node() -> None:
    pod, assigned = stream.pod(7, SMALL), stream.assigned(7, SMALL)
    event = decode_event(ASSIGNED_IDENTITIES, stream.line("ADDED", assigned, ASSIGNED_IDENTITIES))
    assert event.object is not None
    assert event.object.spec.pod == pod["metadata"]["name"]
    assert event.object.spec.nodename == pod["spec"]["nodeName"]
    assert event.object.spec.azure_binding_ref.spec.selector == pod["metadata"]["labels"][BINDING_LABEL]


def test_half_of_the_nodes_are_vms_and_the_others_share_scale_sets() -> None:
    (page,) = (split_list(body) for body in stream.pages(NODES, SMALL, 500))
    providers = [decode_object(NODES, node).spec.provider_id for node in page.items]
    sets = {each.rpartition("/virtualMachines/")[0] for each in providers if "virtualMachineScaleSets" in each}
    assert len(sets) == 2
    assert sum("virtualMachineScaleSets" not in each for each in providers) == 30
    assert "managedFields" in json.dumps(stream.node(1)), "real objects consist mostly of unused fields"
