"""Random events of a small cluster in any order, with any number of process restarts.

The model is the specification: of the identities that MIC may change, a host has exactly those that its pods need. No
single step detaches an attached identity that is needed, or one that was attached before MIC.
"""

import asyncio

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from typing_extensions import override

from mic.azure.memory import QUARANTINE_MOST_SECONDS
from podidentity.resources import AzureAssignedIdentity, Pod
from tests.examples import examples
from tests.support.mic import MicWorld
from tests.support.objects import binding, identity, identity_id, pod, set_id, set_node, vm_id
from tests.virtual_time import VirtualTimeLoop

HOSTS = (vm_id("n0"), set_id())
NODES = {"n0": vm_id("n0"), "s0": set_id(), "s1": set_id()}
NAMES = ("one", "two", "three")
FOREIGN = "three"
PODS = ("a", "b", "c")


class PodStates(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner(loop_factory=VirtualTimeLoop)
        self.world = self.runner.run(self.started())
        self.pods: dict[str, tuple[str, str]] = {}
        self.bindings: set[str] = set()
        self.resource: dict[str, str] = {}
        self.client: dict[str, str] = {}
        self.uids = 0

    async def started(self) -> MicWorld:
        return await MicWorld().__aenter__()

    @initialize()
    def begin(self) -> None:
        """One identity is attached to the first VM before MIC starts. It must stay attached in every test."""
        for host in HOSTS:
            self.world.host(host, *([FOREIGN] if host == HOSTS[0] else []))
        self.world.add(set_node("s0", 0), set_node("s1", 1))
        for name in NAMES:
            self.resource[name] = self.client[name] = name
            self.world.add(identity(name))
            self.bind(name)

    @rule(name=st.sampled_from(PODS), where=st.sampled_from(sorted(NODES)), label=st.sampled_from(NAMES))
    def run_pod(self, name: str, where: str, label: str) -> None:
        """Create a pod, also if one of that name existed: on another node, with another label, or unchanged."""
        self.uids += 1
        self.pods[name] = (where, label)
        self.world.add(pod(name, node=where, label=label, uid=f"uid{self.uids}"))

    @rule(name=st.sampled_from(PODS))
    def end_pod(self, name: str) -> None:
        if self.pods.pop(name, None) is not None:
            self.world.remove(pod(name))

    @rule(name=st.sampled_from(NAMES))
    def bind(self, name: str) -> None:
        self.bindings.add(name)
        self.world.add(binding(name, identity=name, selector=name))

    @rule(name=st.sampled_from(NAMES))
    def unbind(self, name: str) -> None:
        if name in self.bindings:
            self.bindings.remove(name)
            self.world.remove(binding(name, identity=name, selector=name))

    @rule(
        name=st.sampled_from(NAMES[:2]),
        resource=st.sampled_from(["one", "two", "four"]),
        client=st.sampled_from(["", "", "one", "three"]),
    )
    def point_elsewhere(self, name: str, resource: str, client: str) -> None:
        """The identity gets another resource id, perhaps one that another identity has too; and the client id of that,
        or of another one."""
        self.resource[name], self.client[name] = resource, client or resource
        spelled = f" Client-{self.client[name]}"
        self.world.add(identity(name, resource_id=identity_id(resource), client_id=spelled))

    @rule(host=st.sampled_from(HOSTS))
    def work(self, host: str) -> None:
        """Run one reconcile pass of one host."""
        self.checked_pass(host)

    @rule(host=st.sampled_from(HOSTS), refused=st.sampled_from(["", *NAMES]), look=st.booleans())
    def work_in_vain(self, host: str, refused: str, look: bool) -> None:
        """Run one pass in which Azure does not respond or refuses one identity."""
        if refused:
            self.world.refuse(refused)
        if not look:
            self.world.host_reconciler.look_again(host.lower())
            self.world.hosts.silent.add(host.lower())
        self.checked_pass(host)
        self.world.hosts.refused.clear()
        self.world.hosts.silent.clear()

    @rule(host=st.sampled_from(HOSTS))
    def work_next_to_passes(self, host: str) -> None:
        """Run the writes that run in parallel with passes."""
        self.runner.run(self.world.host_reconciler.revoke(host.lower()))
        self.runner.run(self.world.host_reconciler.assign(host.lower()))

    @rule()
    def lose_the_process(self) -> None:
        """Restart the process, which then has only the objects of the API server."""
        self.world.restart()

    @rule(seconds=st.sampled_from([1.0, 60.0]))
    def wait(self, seconds: float) -> None:
        self.runner.run(asyncio.sleep(seconds))

    @rule()
    def come_to_rest(self) -> None:
        for _ in range(8):
            self.wait(QUARANTINE_MOST_SECONDS)
            for host in HOSTS:
                self.checked_pass(host)
        self.check_rest()

    def checked_pass(self, host: str) -> None:
        before = self.world.attached(host)
        self.runner.run(self.world.reconcile(host))
        lost = before - self.world.attached(host)
        assert not lost & self.needed(host), "an identity in use was detached"

    def needed(self, host: str) -> set[str]:
        return {
            self.resource[label]
            for where, label in self.pods.values()
            if NODES[where] == host and label in self.bindings
        }

    def check_rest(self) -> None:
        for host in HOSTS:
            foreign = {FOREIGN} if host == HOSTS[0] else set()
            assert self.world.attached(host) == self.needed(host) | foreign, host
        expected = {name for name, (_, label) in self.pods.items() if label in self.bindings}
        assert sorted(each.spec.pod for each in self.world.objects.values()) == sorted(expected)
        for each in self.world.objects.values():
            self.check_object(each)

    def check_object(self, each: AzureAssignedIdentity) -> None:
        where, label = self.pods[each.spec.pod]
        assert each.spec.nodename == where
        assert each.spec.azure_identity_ref.spec.resource_id == identity_id(self.resource[label])
        (current,) = (pod for pod in self.world.stored() if isinstance(pod, Pod) and pod.metadata.name == each.spec.pod)
        assert each.metadata.annotation("aadpodidentity.k8s.io/pod-uid") == current.metadata.uid
        assert each.metadata.annotation("aadpodidentity.k8s.io/detach-pending") == ""
        message = each.metadata.annotation("aadpodidentity.k8s.io/message")
        named, real = f"client-{self.client[label]}", f"client-{self.resource[label]}"
        assert each.status.status == ("Assigned" if named == real else "Created")
        assert (named in message.lower() and real in message) if named != real else not message

    @invariant()
    def what_was_there_before_stays(self) -> None:
        if self.client:
            assert FOREIGN in self.world.attached(HOSTS[0])

    @override
    def teardown(self) -> None:
        if self.client:
            self.come_to_rest()
        self.runner.run(self.world.__aexit__())
        self.runner.close()


PodStates.TestCase.settings = settings(max_examples=examples(80), stateful_step_count=40, deadline=None)
TestLives = PodStates.TestCase
