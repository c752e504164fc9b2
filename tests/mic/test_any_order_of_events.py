"""Random events of a small cluster in any order, with any number of process restarts.

The model is the specification: of the identities that MIC may change, a host has exactly those that its pods need. No
single step detaches an attached identity that is needed, or one that was attached before MIC.
"""

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from typing_extensions import override

from mic.cluster.view import ClusterView
from podidentity.resources import AzureAssignedIdentity
from tests.examples import examples
from tests.mic.cluster import Cluster, binding, identity, identity_id, node, pod, set_id, set_node, vm_id

HOSTS = (vm_id("n0"), set_id())
NODES = {"n0": vm_id("n0"), "s0": set_id(), "s1": set_id()}
NAMES = ("one", "two", "three")
FOREIGN = "three"
PODS = ("a", "b", "c")


class PodStates(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.cluster = Cluster()
        self.pods: dict[str, tuple[str, str]] = {}
        self.bindings: set[str] = set()
        self.resource: dict[str, str] = {}
        self.client: dict[str, str] = {}
        self.uids = 0

    @initialize()
    def begin(self) -> None:
        """One identity is attached to the first VM before MIC starts. It must stay attached in every test."""
        for host in HOSTS:
            self.cluster.host(host, *([FOREIGN] if host == HOSTS[0] else []))
        self.cluster.add(node("n0"), set_node("s0", 0), set_node("s1", 1))
        for name in NAMES:
            self.resource[name] = self.client[name] = name
            self.cluster.add(identity(name))
            self.bind(name)

    @rule(name=st.sampled_from(PODS), where=st.sampled_from(sorted(NODES)), label=st.sampled_from(NAMES))
    def run_pod(self, name: str, where: str, label: str) -> None:
        """Create a pod, also if one of that name existed: on another node, with another label, or unchanged."""
        self.uids += 1
        self.pods[name] = (where, label)
        self.cluster.add(pod(name, node=where, label=label, uid=f"uid{self.uids}"))

    @rule(name=st.sampled_from(PODS))
    def end_pod(self, name: str) -> None:
        if self.pods.pop(name, None) is not None:
            self.cluster.remove(pod(name))

    @rule(name=st.sampled_from(NAMES))
    def bind(self, name: str) -> None:
        self.bindings.add(name)
        self.cluster.add(binding(name, identity=name, selector=name))

    @rule(name=st.sampled_from(NAMES))
    def unbind(self, name: str) -> None:
        if name in self.bindings:
            self.bindings.remove(name)
            self.cluster.remove(binding(name, identity=name, selector=name))

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
        self.cluster.add(identity(name, resource_id=identity_id(resource), client_id=spelled))

    @rule(host=st.sampled_from(HOSTS))
    def work(self, host: str) -> None:
        """Run one reconcile pass of one host."""
        self.checked_round(host, {}, look=True)

    @rule(host=st.sampled_from(HOSTS), refused=st.sampled_from(["", *NAMES]), look=st.booleans())
    def work_in_vain(self, host: str, refused: str, look: bool) -> None:
        """Run one pass in which Azure does not respond or refuses one identity."""
        self.checked_round(host, {identity_id(refused).lower(): "no"} if refused else {}, look=look)

    @rule(host=st.sampled_from(HOSTS))
    def revoke_early(self, host: str) -> None:
        """Run the writes that run in parallel with passes."""
        host_state = self.cluster.view.host_state(host.lower())
        for desired, active in list(host_state.out_of_sync_assignments()):
            for existing in active if desired is None else ():
                self.cluster.view.revoked(existing)
                self.cluster.delete(existing)

    @rule()
    def lose_the_process(self) -> None:
        """Restart the process, which then has only the objects of the API server."""
        old = self.cluster.view
        self.cluster.view = ClusterView(on_dirty=self.cluster.dirty.append)
        del old
        self.cluster.replay()

    @rule()
    def come_to_rest(self) -> None:
        for _ in range(8):
            for host in HOSTS:
                self.checked_round(host, {}, look=True)
        self.check_rest()

    def checked_round(self, host: str, refused: dict[str, str], *, look: bool) -> None:
        before = self.cluster.on(host)
        self.cluster.reconcile(host, refused=refused, look=look)
        lost = before - self.cluster.on(host)
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
            assert self.cluster.on(host) == self.needed(host) | foreign, host
        expected = {name for name, (_, label) in self.pods.items() if label in self.bindings}
        assert sorted(each.spec.pod for each in self.cluster.objects.values()) == sorted(expected)
        for each in self.cluster.objects.values():
            self.check_object(each)

    def check_object(self, each: AzureAssignedIdentity) -> None:
        where, label = self.pods[each.spec.pod]
        assert each.spec.nodename == where
        assert each.spec.azure_identity_ref.spec.resource_id == identity_id(self.resource[label])
        current: Any = self.cluster.known("Pod", ("default", each.spec.pod))
        assert each.metadata.annotation("aadpodidentity.k8s.io/pod-uid") == current.metadata.uid
        assert each.metadata.annotation("aadpodidentity.k8s.io/detach-pending") == ""
        message = each.metadata.annotation("aadpodidentity.k8s.io/message")
        named, real = f"client-{self.client[label]}", f"client-{self.resource[label]}"
        assert each.status.status == ("Assigned" if named == real else "Created")
        assert (named in message.lower() and real in message) if named != real else not message

    @invariant()
    def what_was_there_before_stays(self) -> None:
        if self.cluster.azure:
            assert FOREIGN in self.cluster.on(HOSTS[0])

    @override
    def teardown(self) -> None:
        if self.cluster.azure:
            self.come_to_rest()


PodStates.TestCase.settings = settings(max_examples=examples(150), stateful_step_count=40, deadline=None)
TestLives = PodStates.TestCase
