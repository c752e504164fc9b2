"""Random histories of users, other programs, Azure and the API server, with MIC killed at any time: invariants of each
write, and of the state after all changes have ended.

Longer runs: HISTORY_EXAMPLES=2000 HISTORY_STEPS=60, with --timeout=0.
"""

import os
from collections.abc import Callable
from typing import Any, Final

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from typing_extensions import override

from podidentity_sandbox.machines import ArmRefusalError
from tests.support.examples import examples
from tests.support.mic.emulated_cloud import BINDINGS, IDENTITIES
from tests.unit.mic.history.faults import Fault, Moment
from tests.unit.mic.history.simulated_cluster import HOSTS, NODES, RESOURCES, SimulatedCluster, spec_of

EXAMPLES: Final = int(os.environ.get("HISTORY_EXAMPLES", examples(60)))
STEPS: Final = int(os.environ.get("HISTORY_STEPS", "30"))

PODS: Final = (("c", "a-b"), ("b-c", "a"), ("default", "web"), ("team", "web"))
"""The first two would give their objects the same name."""
LABELS: Final = ("x", "y")
NAMES: Final = (("default", "one"), ("default", "two"), ("team", "one"), ("team", "three"))
BOUND: Final = (("default", "b0"), ("default", "b1"), ("team", "b0"), ("team", "b1"))
SECONDS: Final = (0.15, 0.0, 0.05, 0.5, 2.2, 2.6, 7.0)

pods, labels, names, bound = (st.sampled_from(values) for values in (PODS, LABELS, NAMES, BOUND))
nodes, hosts, resources = st.sampled_from(sorted(NODES)), st.sampled_from(HOSTS), st.sampled_from(RESOURCES)
seconds = st.sampled_from(SECONDS)
api_faults = st.sampled_from(
    (
        {"status": 500},
        {"status": 409, "code": "Conflict", "writes": True},
        {"status": 429, "retry_after": 2},
        {"status": 410, "code": "Expired", "writes": False},
        {"slow_seconds": 4.0},
        {"lost": Moment.BEFORE},
        {"lost": Moment.AFTER},
    )
)
arm_faults = st.sampled_from(
    (
        {"status": 500},
        {"status": 409, "code": "Conflict", "writes": True},
        {"status": 412, "code": "PreconditionFailed", "writes": True},
        {"status": 429, "retry_after": 20},
        {"status": 429, "retry_after": 90, "writes": True},
        {"status": 403, "code": "AuthorizationFailed"},
        {"slow_seconds": 6.0},
        {"lost": Moment.BEFORE},
        {"lost": Moment.AFTER},
    )
)


def change(**drawn: Any) -> Callable[[Callable[..., None]], Any]:
    """Return a decorator for a rule after which a short time passes, or none, so that the next rule interrupts its
    effects."""

    def decorate(method: Callable[..., None]) -> Any:
        def then_time_passes(self: "AnyHistory", then: float, **values: Any) -> None:
            method(self, **values)
            self.go_on(then)

        then_time_passes.__name__ = method.__name__
        return rule(**drawn, then=seconds)(then_time_passes)  # type: ignore[no-untyped-call]  # Hypothesis' own

    return decorate


class AnyHistory(RuleBasedStateMachine):
    """Each rule makes one change."""

    adopt_existing = False
    grace_seconds = 0.0

    def __init__(self) -> None:
        super().__init__()
        self.simulated = SimulatedCluster(adopt_existing=self.adopt_existing, grace_seconds=self.grace_seconds)

    @initialize(
        foreign=st.lists(st.tuples(hosts, resources), max_size=3),
        system=st.lists(hosts, max_size=1),
        where=st.tuples(nodes, nodes, nodes, nodes),
    )
    def begin(self, foreign: list[tuple[str, str]], system: list[str], where: tuple[str, ...]) -> None:
        for host in system:
            self.simulated.enable_system_assigned(host)
        for host, resource in foreign:
            self.simulated.attach(host, resource)
        for (namespace, name), resource in zip(NAMES, RESOURCES, strict=False):
            self.simulated.put_identity(namespace, name, spec_of(resource))
        for (namespace, name), (_, identity), label in zip(BOUND, NAMES, LABELS * 2, strict=True):
            self.simulated.put_binding(namespace, name, identity, label)
        for pod, node, label in zip(PODS, where, LABELS * 2, strict=True):
            self.simulated.put_pod(*pod, node, label)
        self.simulated.start_mic()

    # Users

    @change(pod=pods, node=nodes, label=labels)
    def run_pod(self, pod: tuple[str, str], node: str, label: str) -> None:
        self.simulated.put_pod(*pod, node, label)

    @rule(first=pods, second=pods, node=nodes, label=labels, then=st.sampled_from((0.15, 1.0, 4.0)))
    def gather_pods(self, first: tuple[str, str], second: tuple[str, str], node: str, label: str, then: float) -> None:
        self.simulated.put_pod(*first, node, label)
        self.simulated.put_pod(*second, node, label)
        self.go_on(then)

    @change(pod=pods)
    def delete_pod(self, pod: tuple[str, str]) -> None:
        self.simulated.remove_pod(*pod)

    @change(pod=pods, phase=st.sampled_from(("Succeeded", "Failed")))
    def finish_pod(self, pod: tuple[str, str], phase: str) -> None:
        self.simulated.change_pod(*pod, {"status": {"phase": phase}}, status=True)

    @change(pod=pods, label=st.sampled_from((*LABELS, None)))
    def relabel_pod(self, pod: tuple[str, str], label: str | None) -> None:
        self.simulated.change_pod(*pod, {"metadata": {"labels": {"aadpodidbinding": label}}})

    @change(name=names, resource=resources, namespaced=st.booleans())
    def change_identity(self, name: tuple[str, str], resource: str, namespaced: bool) -> None:
        self.simulated.put_identity(*name, spec_of(resource), namespaced=namespaced)

    @change(name=names, resource=resources, other=st.sampled_from(RESOURCES[:-1]))
    def name_a_client_id(self, name: tuple[str, str], resource: str, other: str) -> None:
        """Perhaps that of another identity, though not of the one that must stay: what an object calls by that id is
        never taken off, and the oracle does not know of it."""
        self.simulated.put_identity(*name, spec_of(resource) | {"clientID": f" Client-{other}"})

    @change(name=names, resource=resources)
    def federate_identity(self, name: tuple[str, str], resource: str) -> None:
        self.simulated.put_identity(*name, spec_of(resource) | {"type": 3, "tenantID": "t"})

    @change(name=names, how=st.sampled_from(("principal", "malformed", "gone")))
    def make_identity_useless(self, name: tuple[str, str], how: str) -> None:
        match how:
            case "principal":
                self.simulated.put_identity(*name, {"type": 1, "clientID": "c", "tenantID": "t"})
            case "malformed":
                self.simulated.put_identity(*name, {"type": 0, "resourceID": "red", "clientID": "c"})
            case _:
                self.simulated.remove(IDENTITIES, *name)

    @change(binding=bound, identity=names, label=labels)
    def bind(self, binding: tuple[str, str], identity: tuple[str, str], label: str) -> None:
        self.simulated.put_binding(*binding, identity[1], label)

    @change(binding=bound)
    def unbind(self, binding: tuple[str, str]) -> None:
        self.simulated.remove(BINDINGS, *binding)

    @change(node=nodes, pods_go=st.booleans())
    def lose_or_find_node(self, node: str, pods_go: bool) -> None:
        if self.simulated.has_node(node):
            self.simulated.remove_node(node)
            for pod in PODS if pods_go else ():
                self.simulated.remove_pod_of(node, *pod)
        else:
            self.simulated.add_node(node)

    # Azure, and others there

    @change(host=hosts, resource=resources)
    def attach(self, host: str, resource: str) -> None:
        self.simulated.attach(host, resource)

    @change(host=hosts, resource=resources)
    def detach(self, host: str, resource: str) -> None:
        self.simulated.detach(host, resource)

    @rule(host=hosts, resource=resources, seconds=st.sampled_from((3.0, 10.0)))
    def attach_right_before_the_next_update(self, host: str, resource: str, seconds: float) -> None:
        self.simulated.before_next_update(lambda: self.simulated.attach(host, resource))
        self.go_on(seconds)

    @change(resource=resources, how=st.sampled_from(("unauthorized", "failing", "")))
    def refuse_identity(self, resource: str, how: str) -> None:
        self.simulated.mark_bad(resource, how)

    @change(host=hosts)
    def lose_or_find_host(self, host: str) -> None:
        if self.simulated.arm.find(host) is None:
            self.simulated.add_host(host)
        else:
            self.simulated.remove_host(host)

    @change(host=hosts)
    def fail_next_operation(self, host: str) -> None:
        machine = self.simulated.arm.find(host)
        if machine is not None:
            machine.failing_next.append(ArmRefusalError(500, "InternalExecutionError", "An internal error occurred."))

    @rule(host=hosts, takes=st.sampled_from((0.0, 2.0, 40.0)))
    def set_pace(self, host: str, takes: float) -> None:
        machine = self.simulated.arm.find(host)
        if machine is not None:
            machine.operation_seconds = takes

    @change(fault=arm_faults, times=st.sampled_from((1, 3)), host=st.sampled_from(("", *HOSTS)))
    def fail_azure_calls(self, fault: dict[str, Any], times: int, host: str) -> None:
        self.simulated.gate.faults.append(Fault("arm", **fault, times=times, host=host))

    # The API server and MIC

    @change(fault=api_faults, times=st.sampled_from((1, 3)))
    def fail_api_server_calls(self, fault: dict[str, Any], times: int) -> None:
        self.simulated.gate.faults.append(Fault("api", **fault, times=times))

    @change(forget=st.booleans())
    def end_watches(self, forget: bool) -> None:
        if forget:
            self.simulated.api.compact()
        self.simulated.api.drop_watches()

    @rule(then=seconds)
    def lose_mic(self, then: float) -> None:
        self.simulated.kill()
        self.simulated.pass_time(then)
        self.go_on(0.0)

    @rule(calls=st.integers(0, 6), moment=st.sampled_from(list(Moment)), then=st.sampled_from((2.0, 7.0)))
    def lose_mic_at_a_call(self, calls: int, moment: Moment, then: float) -> None:
        self.simulated.gate.kill_at, self.simulated.gate.kill_moment = len(self.simulated.gate.calls) + calls, moment
        self.go_on(then)

    @rule(then=st.sampled_from((1.0, 20.0, 200.0)))
    def wait(self, then: float) -> None:
        self.go_on(then)

    @rule()
    def become_quiet(self) -> None:
        self.simulated.gate.clear()
        self.simulated.pass_time(7.0)  # the maximum duration of MIC's last call
        self.go_on(0.0)
        self.simulated.converge()
        self.simulated.check_quiet()
        if self.simulated.bad:
            self.grant_all()

    def grant_all(self) -> None:
        """Azure accepts the refused identities from now on. MIC must find out by retries."""
        for resource in RESOURCES:
            self.simulated.mark_bad(resource, "")
        self.simulated.converge()

    def go_on(self, then: float) -> None:
        """Let time pass. If MIC was killed, another one starts."""
        self.simulated.watcher.note_needs()
        self.simulated.pass_time(then)
        if self.simulated.mic is None:
            self.simulated.gate.kill_at = -1
            self.simulated.start_mic()
        self.simulated.check_now()

    @override
    def teardown(self) -> None:
        try:
            if self.simulated.mic is not None:
                self.become_quiet()
        finally:
            self.simulated.close()


class AnyHistoryWithOtherFlags(AnyHistory):
    """The same with `--adopt-existing` and `--detach-grace`."""

    adopt_existing = True
    grace_seconds = 20.0


def _settings(examples: int) -> settings:
    return settings(
        max_examples=examples,
        stateful_step_count=STEPS,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
    )


AnyHistory.TestCase.settings = _settings(EXAMPLES)
AnyHistoryWithOtherFlags.TestCase.settings = _settings(EXAMPLES // 2)
TestAnyHistory = AnyHistory.TestCase
TestAnyHistoryWithOtherFlags = AnyHistoryWithOtherFlags.TestCase
