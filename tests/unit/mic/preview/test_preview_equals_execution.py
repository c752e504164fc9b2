"""The preview equals the reconcile passes that follow it, on random clusters.

The clusters are in any state that a crash or an operator can cause. The test compares the planned steps for objects and
Azure with the steps of MIC's real passes. Excluded: the programs on the wire (`test_plan_programs`).
"""

import asyncio
from collections import Counter
from collections.abc import Collection, Iterator

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from typing_extensions import override

from mic.azure.identities import GONE, Attached, HostIdentities
from mic.decisions import steps
from mic.decisions.policy import Policy
from mic.preview.dry_run import DryRun, Snapshot
from mic.preview.outcome import STEP_NAMES, AzureReads, preview
from mic.preview.schema import Preview
from podidentity.azure.errors import AzureError
from podidentity.resources import AzureIdentity, AzureIdentityBinding, Node, Pod
from tests.support.examples import examples
from tests.support.mic.world import MicWorld
from tests.support.objects import binding, identity, identity_id, node, pod, set_id, set_node, vm_id
from tests.support.virtual_time import VirtualTimeLoop

HOSTS = (vm_id("n0"), vm_id("n1"), set_id())
NODES: dict[str, Node] = {
    "n0": node("n0"),
    "n1": node("n1"),
    "s0": set_node("s0", 0),
    "s1": set_node("s1", 1),
    "bare": Node(metadata=node("bare").metadata),
}
NAMES = ("one", "two", "three")
PODS = ("a", "b", "c")


class Recording:
    """A world whose passes are compared with the plan, and its event loop."""

    def __init__(self, policy: Policy | None = None) -> None:
        self.runner = asyncio.Runner(loop_factory=VirtualTimeLoop)
        self.world = self.runner.run(self._started(policy))
        self.world.remove(node("n0"))
        self.world.hosts.reports_clients = (
            False  # a read-only client does not know the client id of an identity that is not attached
        )

    async def _started(self, policy: Policy | None) -> MicWorld:
        return await MicWorld(policy=policy).__aenter__()

    def close(self) -> None:
        self.runner.run(self.world.__aexit__())
        self.runner.close()

    def work(self, host_key: str) -> bool:
        """Run one pass. Return whether it made a step."""
        return bool(self.runner.run(self.world.steps(host_key)))

    def settle(self) -> None:
        self.runner.run(self.world.settle())

    def snapshot(self) -> Snapshot:
        resources = list(self.world.stored())
        return Snapshot(
            pods=tuple(resource for resource in resources if isinstance(resource, Pod)),
            nodes=tuple(resource for resource in resources if isinstance(resource, Node)),
            identities=tuple(resource for resource in resources if isinstance(resource, AzureIdentity)),
            bindings=tuple(resource for resource in resources if isinstance(resource, AzureIdentityBinding)),
            assigned=tuple(self.world.objects.values()),
        )

    def done(self) -> Counter[tuple[str, str, str, str]]:
        """The steps so far: host, name, pod and identity. The name of a new object may depend on the order of the
        hosts, while another one is released on a second host."""
        counts: Counter[tuple[str, str, str, str]] = Counter()
        for host_key, step in self.world.taken:
            key = step.desired.assignment_key if isinstance(step, steps.Create) else step.existing.assignment_key
            pod, identity = f"{key.pod_namespace}/{key.pod}", f"{key.identity_namespace}/{key.identity}"
            counts[host_key, STEP_NAMES[type(step)], pod, identity] += 1
        return counts


def preview_of(recording: Recording, silent: Collection[str] = ()) -> Preview:
    """Return the plan for the world; Azure does not respond for the *silent* hosts (keys)."""
    snapshot, world = recording.snapshot(), recording.world
    responses: dict[str, HostIdentities | AzureError] = dict(world.hosts.table)
    responses |= dict.fromkeys(silent, AzureError("no"))
    return preview(snapshot, DryRun(snapshot, world.policy), AzureReads(responses=responses), {})


class Previewed(RuleBasedStateMachine):
    @initialize(
        adopt=st.booleans(),
        immutable=st.sampled_from(["", "client-two"]),
        type_=st.sampled_from(["", "SystemAssigned"]),
    )
    def begin(self, adopt: bool, immutable: str, type_: str) -> None:
        self.recording = Recording(Policy(frozenset({immutable} - {""}), adopt))
        self.cluster = self.recording.world
        self.uids = 0
        self.identities: set[str] = set()
        self.bindings: dict[str, str] = {}
        self.pods: dict[str, Pod] = {}
        self.nodes = set(NODES)
        for host in HOSTS:
            self.cluster.host(host, type_=type_)
        self.cluster.add(*NODES.values())
        for name in NAMES:
            self.set_identity(name, name, 0, "")
            self.bind(name, name)

    @rule(name=st.sampled_from(PODS), where=st.sampled_from(sorted(NODES)), label=st.sampled_from(NAMES))
    def run_pod(self, name: str, where: str, label: str) -> None:
        self.uids += 1
        self.pods[name] = pod(name, node=where, label=label, uid=f"uid{self.uids}")
        self.cluster.add(self.pods[name])

    @rule(name=st.sampled_from(PODS))
    def end_pod(self, name: str) -> None:
        if name in self.pods:
            self.cluster.remove(self.pods.pop(name))

    @rule(name=st.sampled_from(NAMES), to=st.sampled_from(NAMES))
    def bind(self, name: str, to: str) -> None:
        self.bindings[name] = to
        self.cluster.add(binding(name, identity=to, selector=name))

    @rule(name=st.sampled_from(NAMES))
    def unbind(self, name: str) -> None:
        if to := self.bindings.pop(name, ""):
            self.cluster.remove(binding(name, identity=to, selector=name))

    @rule(
        name=st.sampled_from(NAMES),
        resource=st.sampled_from([*NAMES, "four", ""]),
        type_=st.sampled_from([0, 0, 1]),
        client=st.sampled_from(["", *NAMES]),
    )
    def set_identity(self, name: str, resource: str, type_: int, client: str) -> None:
        """Also one that is malformed, or a service principal, or names the client id of another one."""
        self.identities.add(name)
        resource_id = identity_id(resource) if resource else "/wrong"
        client_id = f"client-{client or resource}"
        self.cluster.add(identity(name, resource_id=resource_id, type_=type_, client_id=client_id))

    @rule(name=st.sampled_from(NAMES))
    def drop_identity(self, name: str) -> None:
        if name in self.identities:
            self.identities.remove(name)
            self.cluster.remove(identity(name))

    @rule(name=st.sampled_from(sorted(NODES)))
    def add_or_delete_node(self, name: str) -> None:
        if name in self.nodes:
            self.nodes.remove(name)
            self.cluster.remove(NODES[name])
        else:
            self.nodes.add(name)
            self.cluster.add(NODES[name])

    @rule(host=st.sampled_from(HOSTS))
    def azure_forgets(self, host: str) -> None:
        """Delete the VM, or create it again without identities."""
        table = self.cluster.hosts.table
        table[host.lower()] = HostIdentities() if table[host.lower()].gone else GONE

    @rule(host=st.sampled_from(HOSTS), name=st.sampled_from(NAMES))
    def another_writer_changes_the_host(self, host: str, name: str) -> None:
        now = self.cluster.hosts.table[host.lower()]
        if now.gone:
            return
        key = identity_id(name).lower()
        attached = {lower: attached for lower, attached in now.attached.items() if lower != key}
        if key not in now.attached:
            attached[key] = Attached(identity_id(name).upper(), f"client-{name}")
        self.cluster.hosts.table[host.lower()] = HostIdentities(
            type=now.type if now.type != "None" else "UserAssigned", attached=attached
        )

    @rule(data=st.data())
    def another_writer_deletes_an_object(self, data: st.DataObject) -> None:
        if self.cluster.objects:
            key = data.draw(st.sampled_from(sorted(self.cluster.objects)))
            self.cluster.delete(key)

    @rule(host=st.sampled_from(HOSTS), look=st.booleans(), refused=st.sampled_from(["", *NAMES]))
    def one_round(self, host: str, look: bool, refused: str) -> None:
        if refused:
            self.cluster.refuse(refused)
        if not look:
            self.cluster.hosts.silent.add(host.lower())
        self.recording.work(host)
        self.cluster.hosts.refused.clear()
        self.cluster.hosts.silent.clear()

    @rule(data=st.data(), silent=st.just(()) | st.sets(st.sampled_from([host.lower() for host in HOSTS])))
    def preview_and_then_work(self, data: st.DataObject, silent: Collection[str]) -> None:
        """The hosts in any order."""
        self.compare(
            data.draw(st.permutations(sorted(host_key.key for host_key in self.cluster.view.host_states()))), silent
        )

    def compare(self, order: list[str], silent: Collection[str] = ()) -> None:
        cluster = self.cluster
        cluster.restart()
        was, stored = dict(cluster.hosts.table), dict(cluster.objects)
        preview_ = preview_of(self.recording, silent)
        assert cluster.objects == stored, "telling wrote something"
        cluster.taken.clear()
        cluster.changes.clear()
        lost = {key for key, memory in was.items() if memory.gone}
        for key in lost - set(silent):
            cluster.accept_loss(key)
        usual = sorted((host_key.key for host_key in cluster.view.host_states()), key=lambda key: (key in lost, key))
        # Deletions without Azure's response, or of a lost host, depend on earlier moves.
        host_states = (
            usual if silent or lost else sorted(usual, key=lambda key: order.index(key) if key in order else -1)
        )
        cluster.hosts.silent.update(silent)
        for _ in range(12):
            if not sum(self.recording.work(host_key) for host_key in host_states):
                break
        else:
            raise AssertionError("no rest")
        cluster.hosts.silent.clear()
        self.agree(preview_, was, in_order=host_states == usual)
        assert not preview_of(self.recording, silent).changes, "the plan is empty after all planned steps"

    def agree(self, preview_: Preview, was: dict[str, HostIdentities], *, in_order: bool) -> None:
        cluster, done = self.cluster, self.recording.done()
        hosts = {host.host.lower(): host for host in preview_.hosts}
        expected = Counter(
            (host_key, step, object_.pod, object_.identity)
            for host_key, host in hosts.items()
            for object_ in host.objects
            for step in object_.steps
        )
        assert done == expected
        if in_order:  # in another order pending detaches may be merged differently
            assert sum(host.updates for host in hosts.values()) == len(cluster.changes)
        for key, before in was.items():
            after, host = cluster.hosts.table[key], hosts.get(key)
            added = {attached.text for lower, attached in after.attached.items() if lower not in before.attached}
            removed = {attached.text for lower, attached in before.attached.items() if lower not in after.attached}
            assert set(host.add if host else ()) == added
            assert set(host.remove if host else ()) == removed
            assert bool(host and host.updates) == bool(added or removed)
            if host is not None and not host.problem:
                assert host.new_type == after.type
            else:
                assert before.type == after.type
        statuses = Counter(
            (f"{assigned.spec.pod_namespace}/{assigned.spec.pod}", assigned.status.status)
            for assigned in cluster.objects.values()
        )
        becoming = {
            (object_.namespace, object_.name): (object_.pod, object_.becomes)
            for host in hosts.values()
            for object_ in host.objects
        }
        assert not Counter(status for status in becoming.values() if status[1]) - statuses
        assert preview_.changes == bool(done or cluster.changes)

    @override
    def teardown(self) -> None:
        if hasattr(self, "cluster"):
            self.compare([host.lower() for host in reversed(HOSTS)])
            self.recording.close()


Previewed.TestCase.settings = settings(
    max_examples=examples(200), stateful_step_count=20, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestPreviewed = Previewed.TestCase


@pytest.fixture
def recording() -> Iterator[Recording]:
    made = Recording()
    yield made
    made.close()


@pytest.mark.parametrize("number", [1, 150, 151, 400])
def test_more_identities_than_one_update_takes(recording: Recording, number: int) -> None:
    cluster = recording.world
    cluster.host(HOSTS[0])
    cluster.add(NODES["n0"])
    for index in range(number):
        cluster.add(identity(f"i{index}"), binding(f"b{index}", identity=f"i{index}", selector=f"label{index // 50}"))
        cluster.add(pod(f"pod{index // 50}", label=f"label{index // 50}"))
    (host,) = preview_of(recording).hosts
    assert len(host.add) == number
    while recording.work(HOSTS[0]):
        pass
    assert host.updates == len(cluster.changes)


@pytest.mark.parametrize(("first", "then"), [("n0", "n1"), ("n1", "n0")])
def test_an_assignment_revoked_while_a_detach_is_pending(recording: Recording, first: str, then: str) -> None:
    """A pod that was created again on another node, and ended before the identity was detached from its first VM."""
    cluster = recording.world
    for host in HOSTS[:2]:
        cluster.host(host)
    cluster.add(NODES["n0"], NODES["n1"], identity(), binding(), pod(node=first))
    recording.settle()
    cluster.add(pod(node=then, uid="another"))
    recording.work(vm_id(then))
    cluster.remove(pod())
    preview_ = preview_of(recording)
    assert {host.host: host.remove for host in preview_.hosts} == {host: [identity_id("demo")] for host in HOSTS[:2]}
    steps = {step for host in preview_.hosts for object_ in host.objects for step in object_.steps}
    assert steps == {"revoke", "settle", "release"}
