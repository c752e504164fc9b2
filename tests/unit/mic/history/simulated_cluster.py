"""A cluster, Azure and MIC in one event loop with virtual time, actions of users, and checks of the result.

MIC has the same parts as in `mic.app`, with the loop's clock. To kill MIC, a test discards all of its further requests.
"""

import asyncio
import logging
import platform
from collections.abc import Callable, Coroutine
from typing import Any, Final, Self, TypeVar

from typing_extensions import override

from mic.decisions.policy import Policy
from podidentity_sandbox.directory import Directory, ManagedIdentity
from podidentity_sandbox.machines import SYSTEM, USER, Machine
from tests.support.mic.emulated_cloud import BINDINGS, GROUP, IDENTITIES
from tests.support.objects import identity_id, set_id, vm_id
from tests.support.virtual_time import VirtualTimeLoop
from tests.unit.mic.history.controller import GatedApi, GatedArm, MicProcess
from tests.unit.mic.history.faults import Call, Gate
from tests.unit.mic.history.oracle import Document, Watcher, violations

T = TypeVar("T")


def spec_of(resource: str) -> Document:
    """Return the spec of an AzureIdentity for this identity."""
    return {"type": 0, "resourceID": identity_id(resource), "clientID": f"client-{resource}"}


NODES: Final = {
    "n0": vm_id("n0"),
    "flex0": vm_id("aks-flex_0a1b"),
    "s0": f"{set_id()}/virtualMachines/0",
    "s1": f"{set_id()}/virtualMachines/1",
}
"""A VM, an instance of a Flex scale set (a VM to MIC), and two nodes of one uniform scale set."""
HOSTS: Final = tuple(
    dict.fromkeys(
        node.partition("/virtualMachines/")[0] if "/virtualMachineScaleSets/" in node else node
        for node in NODES.values()
    )
)
RESOURCES: Final = ("red", "green", "blue", "amber", "kept")
KEPT: Final = "kept"
"""An identity that MIC must never detach."""
NAMESPACES: Final = ("team", "b-c", "c")
OPERATION_SECONDS: Final = 2.0
PATIENCE_SECONDS: Final = 45 * 60.0
"""In virtual time: longer than the longest pause of any component, half an hour."""
BELIEF_SECONDS: Final = 400.0
"""In virtual time: longer than MIC waits until it accepts the 404 of a host, and reacts to it."""
STEP_SECONDS: Final = 5.0
STORY_MAX: Final = 400


class Log(logging.Handler):
    """Collector of MIC's log: each error is a bug. `close` removes the handler from the loggers."""

    def __init__(self, write_line: Callable[[str], None]) -> None:
        super().__init__(logging.INFO)
        self._write_line = write_line
        self.errors: list[str] = []
        self._loggers = [logging.getLogger(name) for name in ("mic", "podidentity")]
        self._levels = [logger.level for logger in self._loggers]
        for logger in self._loggers:
            logger.addHandler(self)
            logger.setLevel(logging.INFO)

    @override
    def emit(self, record: logging.LogRecord) -> None:
        about = {name: value for name, value in record.__dict__.items() if name in {"vm", "error", "pod", "resource"}}
        self._write_line(f"  log: {record.getMessage()} {about}")
        if record.levelno >= logging.ERROR:
            self.errors.append(record.getMessage() + (f": {record.exc_info[1]!r}" if record.exc_info else ""))

    @override
    def close(self) -> None:
        for logger, level in zip(self._loggers, self._levels, strict=True):
            logger.removeHandler(self)
            logger.setLevel(level)
        super().close()


class SimulatedCluster:
    """Use it as a context; every method is called from outside the loop, which runs in `run`, `pass_time` and those
    that say so."""

    def __init__(
        self,
        *,
        adopt_existing: bool = False,
        grace_seconds: float = 0.0,
        operation_seconds: float = OPERATION_SECONDS,
    ) -> None:
        platform.platform()  # starts a program when first asked, which must not be in the loop
        self.loop = VirtualTimeLoop()
        self.story: list[str] = []
        self.log = Log(self.say)
        self.gate = Gate(alive=self.alive, kill=self.kill, write_line=self.say)
        self.watcher = Watcher(
            self.say,
            self.host_of_node,
            self._machine,
            immutable=frozenset({identity_id(KEPT).lower()}),
            adopting=adopt_existing,
        )
        self.bad: set[str] = set()
        self._grace_seconds = grace_seconds
        self._operation_seconds = operation_seconds
        self.mic: MicProcess | None = None
        self._mics = 0
        self._policy = Policy(frozenset({f"client-{KEPT}"}), adopt_existing)
        self._ended: list[asyncio.Task[None]] = []
        self.directory = Directory()
        for name in RESOURCES:
            self.directory.add_identity(identity_id(name), client_id=f"client-{name}")
        self.run(self._start())

    async def _start(self) -> None:
        self.api = GatedApi(self.gate)
        self.arm = GatedArm(self.directory, self.gate, self.watcher, self.loop.time)
        self.store = self.api.store
        for host in HOSTS:
            self.add_host(host)
        for namespace in NAMESPACES:
            self.store.create("namespaces", {"metadata": {"name": namespace}})
        for node in NODES:
            self.add_node(node)
        self.watcher.follow(self.store)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.kill()
        self.run(self._stop())
        self.loop.close()
        self.log.close()

    async def _stop(self) -> None:
        await asyncio.gather(*self._ended, return_exceptions=True)
        self.api.drop_watches()
        await asyncio.sleep(1.0)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await self.loop.shutdown_asyncgens()

    def run(self, what: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(what)

    def pass_time(self, seconds: float) -> None:
        self.run(asyncio.sleep(seconds))

    def say(self, what: str) -> None:
        self.story.append(f"{self.loop.time() - 1000:9.3f} {what}")

    # MIC

    def start_mic(self, *, elects: bool = False) -> MicProcess:
        """Start a new process; it begins when time passes."""
        self._mics += 1
        self.say(f"MIC {self._mics} starts")

        async def start() -> MicProcess:
            mic = MicProcess(
                f"mic{self._mics}",
                self.api,
                self.arm,
                policy=self._policy,
                grace_seconds=self._grace_seconds,
                elects=elects,
            )
            mic.start()
            return mic

        self.mic = self.run(start())
        return self.mic

    def kill(self) -> None:
        """End the process at any point of its work. May be called from inside the loop."""
        mic, self.mic = self.mic, None
        if mic is not None:
            self.say(f"{mic.name} is killed")
            self._ended.append(mic.stop())

    def alive(self, name: str) -> bool:
        return self.mic is not None and self.mic.name == name

    # The cluster

    def add_node(self, name: str) -> None:
        self.store.create("nodes", {"metadata": {"name": name}, "spec": {"providerID": f"azure://{NODES[name]}"}})

    def remove_node(self, name: str) -> None:
        host = self.host_of_node(name)
        self.store.delete("nodes", name)
        self.watcher.forgotten(host)

    def has_node(self, name: str) -> bool:
        return self.store.find("nodes", name) is not None

    def host_of_node(self, name: str) -> str:
        provider_id = NODES.get(name, "")
        return next((host.lower() for host in HOSTS if (provider_id + "/").startswith(host + "/")), "")

    def put_pod(self, namespace: str, name: str, node: str, label: str) -> None:
        """Create a pod, also if one of that name existed: a new pod with another uid, perhaps on another node."""
        self.remove_pod(namespace, name)
        self.store.create(
            "pods",
            {
                "metadata": {"name": name, "namespace": namespace, "labels": {"aadpodidbinding": label}},
                "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}]},
                "status": {"phase": "Running"},
            },
        )
        self.watcher.note_needs()

    def remove_pod(self, namespace: str, name: str) -> None:
        if self.store.find("pods", name, namespace) is not None:
            self.store.delete("pods", name, namespace, grace_seconds=0)

    def remove_pod_of(self, node: str, namespace: str, name: str) -> None:
        """Delete the pod if it is on this node."""
        pod = self.store.find("pods", name, namespace)
        if pod is not None and pod["spec"]["nodeName"] == node:
            self.remove_pod(namespace, name)

    def change_pod(self, namespace: str, name: str, patch: Document, *, status: bool = False) -> None:
        if self.store.find("pods", name, namespace) is not None:
            self.store.patch("pods", name, patch, namespace, subresource="status" if status else "")
            self.watcher.note_needs()

    def put_identity(self, namespace: str, name: str, spec: Document, *, namespaced: bool = False) -> None:
        """Create or change an AzureIdentity."""
        annotations = {f"{GROUP}/Behavior": "namespaced"} if namespaced else {}
        self._put(IDENTITIES, (namespace, name), spec, annotations)

    def put_binding(self, namespace: str, name: str, identity: str, selector: str) -> None:
        """Create or change an AzureIdentityBinding."""
        self._put(BINDINGS, (namespace, name), {"azureIdentity": identity, "selector": selector}, {})

    def _put(self, kind: str, key: tuple[str, str], spec: Document, annotations: Document) -> None:
        namespace, name = key
        meta: Document = {"name": name, "namespace": namespace, "annotations": annotations}
        present = self.store.find(kind, name, namespace)
        if present is None:
            self.store.create(kind, {"metadata": meta, "spec": spec})
        else:
            meta["resourceVersion"] = present["metadata"]["resourceVersion"]
            self.store.replace(kind, {**present, "metadata": {**present["metadata"], **meta}, "spec": spec})
        self.watcher.note_needs()

    def remove(self, kind: str, namespace: str, name: str) -> None:
        """Delete an identity or a binding, if it exists."""
        if self.store.find(kind, name, namespace) is not None:
            self.store.delete(kind, name, namespace)

    # Azure

    def add_host(self, host: str) -> Machine:
        add = self.arm.add_vmss if "ScaleSets" in host else self.arm.add_vm
        return add(host, operation_seconds=self._operation_seconds)

    def remove_host(self, host: str) -> None:
        """Delete the VM or scale set on Azure, with its attached identities."""
        machine = self.arm.vm(host)
        self.watcher.forgotten(host.lower())
        for key in list(machine.user_assigned):
            self.watcher.detached_by_others((host.lower(), key))
        self.arm.remove(host)

    def attach(self, host: str, name: str) -> None:
        """Attach the identity as another client; Azure refuses that during an operation."""
        machine, key = self.arm.find(host), identity_id(name).lower()
        if machine is None or machine.updating or key in machine.user_assigned:
            return
        identity = self.directory.identity(key)
        assert identity is not None
        self.say(f"another client attaches {name} to {host}")
        machine.attach(identity)
        self.watcher.attached_by_others((host.lower(), key))

    def detach(self, host: str, name: str) -> None:
        """Detach the identity as another client, regardless of its owner."""
        machine, key = self.arm.find(host), identity_id(name).lower()
        if machine is None or machine.updating or key not in machine.user_assigned:
            return
        self.say(f"another client detaches {name} from {host}")
        del machine.user_assigned[key]
        machine.attached_at.pop(key, None)
        machine.version += 1
        if not machine.user_assigned:
            machine.types -= {USER}
        self.watcher.detached_by_others((host.lower(), key))

    def enable_system_assigned(self, host: str) -> None:
        machine = self.arm.vm(host)
        machine.system_assigned = ManagedIdentity(host, "client-system", "object-system", self.directory.tenant_id)
        machine.types |= {SYSTEM}

    def before_next_update(self, action: Callable[[], None]) -> None:
        """Run another client's action between MIC's read of Azure and its next update."""

        def before(call: Call) -> None:
            if call.server == "arm" and call.writes:
                self.gate.before = lambda _call: None
                action()

        self.gate.before = before

    def mark_bad(self, name: str, how: str) -> None:
        """Make Azure refuse the identity; *how* as in `podidentity_sandbox.arm.Marked`; empty: accept it again."""
        key = identity_id(name).lower()
        self.arm.marked.unauthorized.discard(key)
        self.arm.marked.failing.discard(key)
        self.bad.discard(key)
        if how:
            getattr(self.arm.marked, how).add(key)
            self.bad.add(key)

    def _machine(self, host: str) -> Machine | None:
        machine = self.arm.find(host)
        if machine is not None:
            machine.complete_operation()
        return machine

    # What must be

    def converge(self) -> None:
        """Let time pass until the state is the expected one. Fail with the history if it does not become so."""
        until = self.loop.time() + PATIENCE_SECONDS
        self.check_now()
        while (violations := self.violations()) and self.loop.time() < until:
            self.pass_time(STEP_SECONDS)
            self.check_now()
        assert not violations, self.with_history(violations)
        if any(self.arm.find(host) is None for host in HOSTS):
            self.pass_time(BELIEF_SECONDS)
            self.check_now()
        self.watcher.settle()

    def check_quiet(self) -> None:
        """In the expected state, MIC writes nothing, except retries of identities that Azure refuses."""
        before = len(self.gate.calls)
        self.pass_time(60.0)
        self.check_now()
        wrote = [call for call in self.gate.calls[before:] if call.writes]
        assert self.bad or not wrote, self.with_history(f"writes although nothing is out of sync: {wrote}")

    def check_now(self) -> None:
        """Check that no invariant was violated."""
        assert not self.watcher.wrong, self.with_history("; ".join(self.watcher.wrong))
        assert not self.gate.impatient, self.with_history("; ".join(self.gate.impatient))
        assert not self.log.errors, self.with_history("; ".join(self.log.errors))
        failure = None if self.mic is None else self.mic.failed()
        assert failure is None, self.with_history(f"MIC ended: {failure!r}")

    def with_history(self, what: str) -> str:
        return what + "\n" + "\n".join(self.story[-STORY_MAX:])

    def violations(self) -> str:
        """Return the first difference from the expected state; empty if there is none."""
        return violations(self.store, self._machine, HOSTS, self.watcher, self.bad)
