"""A soak on a real node: pods come and go at few addresses while NMI is rolled out, killed and loses its rules.

`python -m tests.nightly.soak.real_node ANSWERS RATE bridge|ptp` or `make soak-node`, as root. The pods request tokens
at RATE a second in total and check the identity of each. Exit code 1 if a pod got a token of another identity, or if a
request reached IMDS past NMI.
"""

import itertools
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TextIO, cast

import msgspec

from podidentity_sandbox.azure import identity_id
from tests.support.waiting import until_sync
from tests.system.node import manifests
from tests.system.node.bed import NAMESPACE, NMI, Bed
from tests.system.node.evaluation import parse_load_log
from tests.system.node.options import Cni, Options

PODS: Final = 10
ADDRESSES: Final = 18
"""Addresses of the node's pods: MIC has two, so that a new pod soon gets the address of a former one."""
IDENTITIES: Final = 5
WITHOUT_SHARE: Final = 0.2
"""The share of pods without an identity, for which every token is wrong."""
NEW_PERCENT: Final = 20
"""The share of requests on a connection of their own. Kept connections are those that outlive a change of the owner."""
STEPS_PER_EVENT: Final = 4
"""Pods that are replaced between two events."""
WITHOUT_API_SECONDS: Final = 10.0
FEWEST_RIGHT: Final = 0.5
"""The share of the answers that must be right. Far fewer would mean that nothing was tested."""


@dataclass
class Report:
    """The result. *wrong* are tokens of another identity than the pod's, which includes those of former owners."""

    seconds: float = 0.0
    answers: int = 0
    right: int = 0
    """Tokens, and refusals of pods without an identity."""
    wrong: int = 0
    former: int = 0
    """Wrong tokens of an identity of the address's former pod."""
    leaked: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    pods: int = 0
    reused: int = 0
    """Pods at an address that another pod had before."""
    events: Counter[str] = field(default_factory=Counter)
    memory_mib: list[float] = field(default_factory=list)
    """Resident memory of NMI, before each event."""

    def add(self, outcomes: Counter[str], identity: str, former: frozenset[str]) -> None:
        """Add the *outcomes* of a pod with this *identity*, which is empty if it has none.

        *former* are the identities of its address before. Requests without a response are no answers.
        """
        for outcome, count in outcomes.items():
            kind, _, token = outcome.partition(" token ")
            self.outcomes[f"{kind} token" if token else outcome] += count
            if token or " http " in outcome:
                self.answers += count
            if token or (" http " in outcome and not identity):
                self.right += count
            if token and token != identity:
                self.wrong += count
                self.former += count if token in former else 0

    def broken(self) -> list[str]:
        """Return a line for each promise that was not kept."""
        violations = [f"{self.wrong} tokens of another identity"] if self.wrong else []
        if self.leaked:
            violations.append(f"{self.leaked} requests reached IMDS past NMI")
        if self.right < FEWEST_RIGHT * self.answers:
            violations.append(f"only {self.right} of {self.answers} answers are right")
        return violations


@dataclass
class Pod:
    """A running pod. *former* are the identities of its address before; *log* is the file of its output."""

    name: str
    identity: str
    former: frozenset[str]
    log: TextIO


class Soak:
    """Pods on one node. Raise BedError and CommandError."""

    def __init__(self, bed: Bed, rate: float) -> None:
        self.report = Report()
        self._bed, self._node = bed, bed.nodes[0]
        self._rate = rate
        self._draw = random.Random(1)
        self._owners: dict[str, set[str]] = {}
        """The identities that the pods of an address had so far; empty for a pod without one."""

    def run(self, answers: int) -> None:
        """Replace pods and cause events until the pods have counted *answers*."""
        bed, node, report = self._bed, self._node, self.report
        for number in range(IDENTITIES):
            name = f"soak-{number}"
            identity = bed.azure.call(lambda emulator: emulator.directory.add_identity(identity_id(name)))  # noqa: B023
            bed.apply(manifests.identity(name, identity.resource_id, identity.client_id), manifests.binding(name))
        begin = time.time()
        pods = [self._create() for _ in range(PODS)]
        events = itertools.cycle(self._events().items())
        for step in itertools.count(1):
            if report.answers >= answers:
                break
            self._delete(pods.pop(0))
            pods.append(self._create())
            if step % STEPS_PER_EVENT == 0:
                for pid in bed.nmi_pids()[-1:]:
                    status = node.done("grep", "VmRSS", f"/proc/{pid}/status").stdout.split()
                    report.memory_mib.append(round(int(status[1]) / 1024, 1) if status else 0.0)
                name, event = next(events)
                event()
                report.events[name] += 1
            for pod in pods:
                self._count(pod)
            sys.stderr.write(f"{report.answers} answers, {report.wrong} wrong\n")
        for pod in pods:
            self._delete(pod)
        report.seconds = round(time.time() - begin, 1)
        report.leaked = sum(request.leaked for request in bed.azure.requests(begin))

    def _events(self) -> dict[str, Callable[[], object]]:
        bed, node = self._bed, self._node
        in_namespace = f"--namespace={NAMESPACE}"

        def flush_nat_rules() -> None:
            node.run("iptables", "-t", "nat", "-F", "PREROUTING")
            node.restart_kube_proxy()

        def restart_kubelet() -> None:
            node.kubelet.stop()
            node.start_kubelet()

        def stop_api_server() -> None:
            bed.plane.stop()
            time.sleep(WITHOUT_API_SECONDS)
            bed.plane.start()
            bed.wait_for_nodes()

        return {
            "rollout": lambda: bed.kubectl("rollout", "restart", NMI, in_namespace),
            "SIGKILL": lambda: node.done("kill", "-KILL", *map(str, bed.nmi_pids()[:1])),
            "nat flushed": flush_nat_rules,
            "kubelet restarted": restart_kubelet,
            "API server unavailable": stop_api_server,
            "NMI's pod deleted": lambda: bed.kubectl("delete", "pod", bed.nmi_pod(), in_namespace, "--wait=false"),
        }

    def _create(self) -> Pod:
        name = f"pod-{self.report.pods}"
        identity = "" if self._draw.random() < WITHOUT_SHARE else f"soak-{self._draw.randrange(IDENTITIES)}"
        rate = self._rate / PODS
        self._bed.apply(
            manifests.load_pod(name, selector=identity, rate=rate, new_percent=NEW_PERCENT, nodeName=self._node.name)
        )

        def running() -> tuple[list[Path], str]:
            logs = [*self._node.log_folder.glob(f"default_{name}_*/main/0.log")]
            return logs, self._bed.kubectl("get", "pod", name, "--output=jsonpath={.status.podIP}")

        (log, *_), address = until_sync(running, f"{name} runs", holds=all)
        owners = self._owners.setdefault(address, set())
        self.report.pods += 1
        self.report.reused += bool(owners)
        # The log stays readable after the pod's deletion, so that its last answers count.
        pod = Pod(name, identity, frozenset(owners), log.open(errors="replace"))
        owners.add(identity)
        return pod

    def _delete(self, pod: Pod) -> None:
        self._bed.kubectl("delete", "pod", pod.name)
        self._count(pod)
        pod.log.close()

    def _count(self, pod: Pod) -> None:
        outcomes, _ = parse_load_log(pod.log.read())
        self.report.add(outcomes, pod.identity, pod.former)


def main(answers: str, rate: str, cni: str) -> None:
    """Run the soak and print the report as JSON. Exit with 1 if a promise was not kept."""
    with Bed(Options(cni=cast("Cni", cni), pod_addresses=ADDRESSES)) as bed:
        bed.install()
        soak = Soak(bed, float(rate))
        soak.run(int(answers))
    sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(soak.report)) + b"\n")
    if broken := soak.report.broken():
        sys.exit("\n".join(broken))


if __name__ == "__main__":
    main(*sys.argv[1:])
