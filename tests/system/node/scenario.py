"""Scenarios on a test bed: an action while prober pods send requests, and the effects on the pods and IMDS.

Load pods send thousands of requests a second in addition, each with another identity.
"""

import math
import time
from collections import Counter
from collections.abc import Callable
from typing import Final

import msgspec

from podidentity_sandbox.azure import DEMO_IDENTITY
from tests.support.machine_pauses import Recorder, recorded_pauses
from tests.system.node.bed import Bed
from tests.system.node.evaluation import Probe, Result, evaluate, parse, parse_load_log
from tests.system.node.manifests import binding, demo, identity, load_pod, prober
from tests.system.node.processes import wait_for
from tests.system.node.programs import BUILD

RESULTS: Final = BUILD / "results.json"
LOAD_PODS: Final = ("load-0", "load-1", "load-2", "load-3")
NEW_PERCENT: Final = 50
"""The share of requests of the load on a connection of their own."""
LOAD_START_SECONDS: Final = 120.0
BEFORE_SECONDS: Final = 1.0
"""Time before the action in which the requests must succeed."""
GOOD_PROBES: Final = 20
"""A prober has recovered after this number of good requests in a row: two seconds."""
RECOVERY_SECONDS: Final = 60.0
PAUSE_SECONDS: Final = 0.25
"""A shorter time in which the machine did not run is not excluded from an interruption."""
WITH: Final = ("with-0", "with-1")
"""The prober pods with the demo's identity."""
TOKEN: Final = f"token {DEMO_IDENTITY}"
"""The outcome of their requests."""
PROBERS: Final = {**dict.fromkeys(WITH, TOKEN), "without": ""}
"""All prober pods, and the outcomes of their requests; empty for the pod without an identity."""


class Load:
    """LOAD_PODS on the first node of *bed* that send *rate* requests a second in total."""

    def __init__(self, bed: Bed, rate: float) -> None:
        self._bed = bed
        self._rate = rate

    def start(self) -> None:
        """Create identities, bindings and pods. Wait until each gets only tokens of its identity. Raise BedError."""
        node = self._bed.nodes[0].name
        for name in LOAD_PODS:
            made = self._bed.azure.add_identity(name)
            pod = load_pod(
                name, selector=name, rate=self._rate / len(LOAD_PODS), new_percent=NEW_PERCENT, nodeName=node
            )
            self._bed.apply(identity(name, made.resource_id, made.client_id), binding(name), pod)
        wait_for(lambda: all(map(self._is_running, LOAD_PODS)), LOAD_START_SECONDS, "the load pods do not get tokens")

    def stop(self) -> None:
        """Delete pods, bindings and identities."""
        for kind in ("pod", "azureidentitybinding", "azureidentity"):
            self._bed.kubectl("delete", kind, *LOAD_PODS)

    def add_to(self, result: Result, since: float) -> Result:
        """Return *result* with the requests of all pods from *since* on added to its counts, in Unix seconds."""
        total: Counter[str] = Counter()
        right, slowest = 0, 0.0
        for name in LOAD_PODS:
            outcomes, took = parse_load_log("\n".join(self._lines(name)), since)
            total += outcomes
            slowest = max(slowest, took)
            right += sum(count for outcome, count in outcomes.items() if outcome.endswith(f" token {name}"))
        new = sum(total[outcome] for outcome in total if outcome.startswith("new "))
        refused = sum(total[outcome] for outcome in total if outcome.endswith(" refused"))
        tokens = sum(total[outcome] for outcome in total if " token " in outcome)
        requests = total.total()
        return msgspec.structs.replace(
            result,
            remark=f"{requests:,} requests under load, {new:,} of them on a connection of their own; the slowest took "
            f"{slowest:.2f} s.",
            refused=result.refused + refused,
            failed=result.failed + requests - tokens - refused,
            wrong=result.wrong + tokens - right,
            outcomes={**result.outcomes, **dict(sorted(total.items()))},
        )

    def _is_running(self, name: str) -> bool:
        outcomes, _ = parse_load_log("\n".join(self._lines(name)[-1:]))
        return bool(outcomes) and all(outcome.endswith(f" token {name}") for outcome in outcomes)

    def _lines(self, name: str) -> list[str]:
        logs = self._bed.nodes[0].log_folder.glob(f"default_{name}_*/main/*.log")
        return [line for log in sorted(logs) for line in log.read_text(errors="replace").splitlines()]


class Scenarios:
    """Prober pods on the first node of *bed*, and the results so far."""

    def __init__(self, bed: Bed) -> None:
        self.bed = bed
        self.results: list[Result] = []
        self._recorder: Recorder | None = None

    def create_probers(self) -> None:
        """Create the demo's identity, its binding and the prober pods. Wait for their first tokens. Raise BedError."""
        self.apply_probers()
        self.wait_for_recovery(time.time())

    def apply_probers(self) -> None:
        """Create the objects of `create_probers`, which need not get tokens yet."""
        node = self.bed.nodes[0].name
        pods = [prober(name, selector=DEMO_IDENTITY if token else "", nodeName=node) for name, token in PROBERS.items()]
        self.bed.apply(*demo(), *pods)

    def measure(
        self,
        name: str,
        action: Callable[[], object],
        *,
        recovery_seconds: float = RECOVERY_SECONDS,
        load: Load | None = None,
    ) -> Result:
        """Run *action* and return its effect on the pods, measured until each pod gets tokens again.

        The requests of *load* count as well, except in the interruption. Raise BedError if a pod gets no token within
        *recovery_seconds* after the action.
        """
        self.wait_for_recovery(time.time())
        with recorded_pauses(PAUSE_SECONDS) as self._recorder:
            begin = time.time()
            time.sleep(BEFORE_SECONDS)
            action()
            self.wait_for_recovery(time.time(), recovery_seconds)
            result = self.evaluate(name, begin)
        self._recorder = None
        if load is not None:
            result = load.add_to(result, begin)
        self.results.append(result)
        return result

    def add_remark(self, text: str) -> None:
        """Add a sentence about the newest result to the page."""
        last = self.results[-1]
        self.results[-1] = msgspec.structs.replace(last, remark=f"{last.remark} {text}".strip())

    def evaluate(self, name: str, since: float, until: float = math.inf) -> Result:
        """Return the effect of what happened from *since* to *until*, in Unix seconds."""
        probers = [
            (expected, [probe for probe in self.probes(pod, since) if probe.at < until])
            for pod, expected in PROBERS.items()
        ]
        leaked = sum(request.leaked and request.at < until for request in self.bed.azure.requests(since))
        return evaluate(name, probers, leaked, self._recorder.pauses() if self._recorder is not None else ())

    def wait_for_recovery(self, since: float, seconds: float = RECOVERY_SECONDS) -> None:
        """Wait until the last requests from *since* on have the expected outcome. Raise BedError after *seconds*."""

        def recovered(pod: str) -> bool:
            return [probe.outcome for probe in self.probes(pod, since)[-GOOD_PROBES:]] == [TOKEN] * GOOD_PROBES

        wait_for(lambda: all(map(recovered, WITH)), seconds, "the pods get no tokens")

    def probes(self, pod: str, since: float) -> list[Probe]:
        """Return the requests of a prober pod from *since* on, of all its containers so far."""
        logs = self.bed.nodes[0].log_folder.glob(f"default_{pod}_*/main/*.log")
        probes = [probe for log in logs for probe in parse(log.read_text(errors="replace"), Probe)]
        return sorted((probe for probe in probes if probe.at >= since), key=lambda probe: probe.at)

    def save(self) -> None:
        """Write the results where `python -m tests.system.node.report` finds them."""
        if self.results:
            RESULTS.write_bytes(msgspec.json.format(msgspec.json.encode(self.results)))
