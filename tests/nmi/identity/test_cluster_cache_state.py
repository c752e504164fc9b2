"""The state on the debug page: sufficient to explain a decision, bounded, and without client ids."""

import json

from nmi.identity.cluster_cache import SHOWN_MAX
from tests.nmi.identity.cluster import running_cluster
from tests.support.nmi_objects import CLIENT_ID, assigned_identity, exception, pod


async def test_the_state_shows_each_pod_with_the_inputs_of_its_decision() -> None:
    async with running_cluster() as cluster:
        uid = cluster.put_pod(pod(labels={"app": "web"}))
        cluster.put_assigned(assigned_identity())
        cluster.put_exception(exception(labels={"app": "web"}))
        await cluster.seen(lambda: bool((it := cluster.at("10.0.0.1")) and it.assigned and it.facts.exempt))
        state = cluster.cluster_cache.state()
        assert state["pods"] == [
            {
                "pod": "ns/web",
                "uid": uid,
                "addresses": ["10.0.0.1"],
                "label": "web",
                "exempt": "exception ns/ex",
                "doubtful": False,
                "terminated": False,
                "sandbox_down": False,
                "suspended": {},
                "host_network": False,
                "identities": [{"identity": "ns/id", "binding": "id-binding", "status": "Assigned", "usable": True}],
            }
        ]
        assert (state["addresses"], state["suspended"], state["silent"], state["held"]) == (1, False, [], 0)
        assert CLIENT_ID not in json.dumps(state)


async def test_the_state_is_json_before_the_watches_have_started_too() -> None:
    async with running_cluster(watching=False) as cluster:
        state = json.loads(json.dumps(cluster.cluster_cache.state(), allow_nan=False))
        assert state["watches"]["pods"] == {"silent_seconds": None, "restarts": 0, "objects": 0}
        assert sorted(state["silent"]) == ["assigned_identities", "exceptions", "pods"]


async def test_the_state_is_bounded() -> None:
    async with running_cluster(watching=False) as cluster:
        for number in range(SHOWN_MAX + 7):
            cluster.deliver(pod(f"web-{number}", uid=str(number), addresses=(f"10.1.{number // 250}.{number % 250}",)))
        state = cluster.cluster_cache.state()
        shown = state["pods"]
        assert isinstance(shown, list)
        assert (len(shown), state["pods_left_out"]) == (SHOWN_MAX, 7)
