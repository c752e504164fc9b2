"""A soak on a real node: pods come and go at few addresses while NMI is rolled out, killed and loses its rules.

`python -m tests.soak.real_node ANSWERS CNI RATE [REPORT]` or `make soak-node`, as root. CNI is bridge or ptp. The pods
request tokens at RATE a second in total and check the identity of each. Exit code 1 if a pod got a token of another
identity, or if a request reached IMDS past NMI.
"""

import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final, TextIO, cast

from podidentity_sandbox.azure import identity_id
from tests.realnode import manifests
from tests.realnode.bed import NAMESPACE, NMI, Bed
from tests.realnode.evaluation import parse_load_log
from tests.realnode.options import Cni, Options
from tests.realnode.processes import wait_for

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
LOG_SECONDS: Final = 60.0
FEWEST_RIGHT: Final = 0.5
"""The share of the answers that must be right. Far fewer would mean that nothing was tested."""


@dataclass
class Report:
    """The result. *wrong* are tokens of another identity than the pod's, which includes those of former owners."""

    cni: str
    seconds: float = 0.0
    answers: int = 0
    right: int = 0
    """Tokens, and refusals of pods without an identity."""
    wrong: int = 0
    former: int = 0
    """Wrong tokens of an identity of the address's former pod."""
    leaked: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)
    pods: int = 0
    reused: int = 0
    """Pods at an address that another pod had before."""
    events: dict[str, int] = field(default_factory=dict)
    memory_mib: list[float] = field(default_factory=list)
    """Resident memory of NMI, before each event."""

    def broken(self) -> list[str]:
        """Return a line for each promise that was not kept."""
        found = [f"{self.wrong} tokens of another identity"] if self.wrong else []
        if self.leaked:
            found.append(f"{self.leaked} requests reached IMDS past NMI")
        if self.right < FEWEST_RIGHT * self.answers:
            found.append(f"only {self.right} of {self.answers} answers are right")
        return found


@dataclass
class Pod:
    """One pod of the soak, with its *identity*; empty if it has none. *former* are those of its address before.

    *log* is the file of the running pod's output.
    """

    name: str
    identity: str
    address: str = ""
    former: frozenset[str] = frozenset()
    log: TextIO | None = None

    def read(self) -> Counter[str]:
        """Return the outcomes since the last call. The log stays readable after the pod's deletion."""
        if self.log is None:
            return Counter()
        outcomes, _ = parse_load_log(self.log.read())
        return outcomes


class Soak:
    """The pods and the events on *bed*, counted in `report`."""

    def __init__(self, bed: Bed, report: Report, rate: float, seed: int = 1) -> None:
        self.bed = bed
        self.report = report
        self._rate = rate
        self._draw = random.Random(seed)
        self._pods: list[Pod] = []
        self._owners: dict[str, set[str]] = {}
        """The identities that the pods of an address had so far."""

    def run(self, answers: int) -> None:
        """Replace pods and cause events until the pods have counted *answers*, or until Ctrl-C.

        Raise BedError and CommandError.
        """
        for number in range(IDENTITIES):
            self._bind(f"soak-{number}")
        begin = time.time()
        with suppress(KeyboardInterrupt):
            self._replace_pods(answers)
        for pod in self._pods:
            self._delete(pod)
        self.report.seconds = round(time.time() - begin, 1)
        self.report.leaked = sum(each.leaked for each in self.bed.azure.requests(begin))

    def _replace_pods(self, answers: int) -> None:
        for _ in range(PODS):
            self._pods.append(self._create())
        events = self._events()
        step = 0
        while self.report.answers < answers:
            self._replace(self._pods[step % PODS])
            step += 1
            if step % STEPS_PER_EVENT == 0:
                name = list(events)[(step // STEPS_PER_EVENT - 1) % len(events)]
                self._sample()
                events[name]()
                self.report.events[name] = self.report.events.get(name, 0) + 1
            self._count()
            print(f"{self.report.answers} answers, {self.report.wrong} wrong", file=sys.stderr, flush=True)  # noqa: T201

    def _events(self) -> dict[str, Callable[[], object]]:
        node = self.bed.nodes[0]

        def restart_kubelet() -> None:
            node.kubelet.stop()
            node.start_kubelet()

        def flush_nat_rules() -> None:
            node.run("iptables", "-t", "nat", "-F", "PREROUTING")
            node.restart_kube_proxy()

        def stop_api_server() -> None:
            self.bed.plane.stop()
            try:
                time.sleep(WITHOUT_API_SECONDS)
            finally:
                self.bed.plane.start()
            self.bed.wait_for_nodes()

        return {
            "rollout": lambda: self.bed.kubectl("rollout", "restart", NMI, f"--namespace={NAMESPACE}"),
            "SIGKILL": lambda: node.done("kill", "-KILL", *map(str, self.bed.nmi_pids()[:1])),
            "nat flushed": flush_nat_rules,
            "kubelet restarted": restart_kubelet,
            "API server unavailable": stop_api_server,
            "NMI's pod deleted": lambda: self.bed.kubectl(
                "delete", "pod", self.bed.nmi_pod(), f"--namespace={NAMESPACE}", "--wait=false"
            ),
        }

    def _bind(self, name: str) -> None:
        made = self.bed.azure.call(lambda emulator: emulator.directory.add_identity(identity_id(name)))
        self.bed.apply(manifests.identity(name, made.resource_id, made.client_id), manifests.binding(name))

    def _create(self) -> Pod:
        number = self.report.pods
        self.report.pods += 1
        without = self._draw.random() < WITHOUT_SHARE
        identity = "" if without else f"soak-{self._draw.randrange(IDENTITIES)}"
        pod = Pod(f"pod-{number}", identity)
        node = self.bed.nodes[0]
        self.bed.apply(
            manifests.load_pod(
                pod.name, selector=identity, rate=self._rate / PODS, new_percent=NEW_PERCENT, nodeName=node.name
            )
        )
        pattern = f"default_{pod.name}_*/main/0.log"
        wait_for(lambda: list(node.log_folder.glob(pattern)), LOG_SECONDS, f"{pod.name} has no log")
        pod.log = next(node.log_folder.glob(pattern)).open(errors="replace")
        wait_for(lambda: self._address(pod), LOG_SECONDS, f"{pod.name} has no address")
        pod.address = self._address(pod)
        owners = self._owners.setdefault(pod.address, set())
        self.report.reused += bool(owners)
        pod.former = frozenset(owners - {""})
        owners.add(identity)
        return pod

    def _address(self, pod: Pod) -> str:
        return self.bed.kubectl("get", "pod", pod.name, "--output=jsonpath={.status.podIP}")

    def _replace(self, pod: Pod) -> None:
        self._delete(pod)
        self._pods[self._pods.index(pod)] = self._create()

    def _delete(self, pod: Pod) -> None:
        self.bed.kubectl("delete", "pod", pod.name, "--ignore-not-found")
        self._add(pod)
        if pod.log is not None:
            pod.log.close()
            pod.log = None

    def _count(self) -> None:
        for pod in self._pods:
            self._add(pod)

    def _add(self, pod: Pod) -> None:
        add(self.report, pod.read(), pod.identity, pod.former)

    def _sample(self) -> None:
        pids = self.bed.nmi_pids()
        if pids:
            status = self.bed.nodes[0].done("grep", "VmRSS", f"/proc/{pids[-1]}/status").stdout.split()
            self.report.memory_mib.append(round(int(status[1]) / 1024, 1) if status else 0.0)


def add(report: Report, outcomes: Counter[str], identity: str, former: frozenset[str]) -> None:
    """Add the *outcomes* of a pod with this *identity* to the report; *former* are those of its address before.

    Requests without a response are counted by their outcome and are no answers.
    """
    for outcome, count in outcomes.items():
        kind, _, got = outcome.partition(" token ")
        report.outcomes[outcome if not got else f"{kind} token"] = (
            report.outcomes.get(outcome if not got else f"{kind} token", 0) + count
        )
        if got:
            report.answers += count
            report.right += count
            if got != identity:
                report.wrong += count
                report.former += count if got in former else 0
        elif " http " in outcome:
            report.answers += count
            # A pod without an identity never gets a token: its answers are right.
            report.right += count if not identity else 0


def main(arguments: list[str]) -> None:
    """Run the soak and print the report as JSON. Exit with 1 if a promise was not kept."""
    answers, cni, rate = int(arguments[0]), arguments[1], float(arguments[2])
    if cni not in {"bridge", "ptp"}:
        sys.exit(f"tests.soak.real_node: CNI is bridge or ptp, not {cni}")
    report = Report(cni)
    with Bed(Options(cni=cast("Cni", cni), pod_addresses=ADDRESSES)) as bed:
        bed.install()
        Soak(bed, report, rate).run(answers)
    text = json.dumps(asdict(report), indent=1)
    print(text)  # noqa: T201
    if len(arguments) > 3:
        Path(arguments[3]).write_text(text)
    if broken := report.broken():
        sys.exit("\n".join(broken))


if __name__ == "__main__":
    main(sys.argv[1:])
