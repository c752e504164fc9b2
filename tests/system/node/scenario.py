"""Scenarios on a test bed: an action while prober pods send requests, and the effects on the pods and IMDS."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from podidentity_sandbox.azure import DEMO_CLIENT_ID, DEMO_IDENTITY, identity_id
from tests.support.machine_pauses import Recorder, recorded_pauses
from tests.system.node.bed import Bed
from tests.system.node.evaluation import Probe, Prober, Result, evaluate, parse_log
from tests.system.node.load import Load
from tests.system.node.manifests import binding, identity, prober
from tests.system.node.processes import wait_for
from tests.system.node.programs import BUILD

RESULTS: Final = BUILD / "results.json"
BEFORE_SECONDS: Final = 1.0
"""Time before the action in which the requests must succeed."""
GOOD_PROBES: Final = 20
"""A prober has recovered after this number of good requests in a row: two seconds."""
RECOVERY_SECONDS: Final = 60.0
PAUSE_SECONDS: Final = 0.25
"""A shorter time in which the machine did not run is not excluded from an interruption."""


@dataclass
class Scenarios:
    """Prober pods on the first node of *bed*, and the results so far."""

    bed: Bed
    results: list[Result] = field(default_factory=list)
    expected: dict[str, str] = field(
        default_factory=lambda: {
            "with-0": f"token {DEMO_IDENTITY}",
            "with-1": f"token {DEMO_IDENTITY}",
            "without": "",
        }
    )
    """The pods' names and the outcomes of their requests; empty for the pod without an identity."""
    _recorder: Recorder | None = field(default=None, init=False, repr=False)

    def create_probers(self) -> None:
        """Create the demo's identity, its binding and the prober pods. Wait for their first tokens. Raise BedError."""
        self.apply_probers()
        self.wait_for_recovery(time.time(), RECOVERY_SECONDS)

    def apply_probers(self) -> None:
        """Create the objects of `create_probers`, which need not get tokens yet."""
        node = {"nodeName": self.bed.nodes[0].name}
        self.bed.apply(
            identity(DEMO_IDENTITY, identity_id(DEMO_IDENTITY), DEMO_CLIENT_ID),
            binding(DEMO_IDENTITY),
            *(
                prober(name, selector=DEMO_IDENTITY if expected else "", **node)
                for name, expected in self.expected.items()
            ),
        )

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
        self.wait_for_recovery(time.time(), RECOVERY_SECONDS)
        with recorded_pauses(PAUSE_SECONDS) as recorder:
            self._recorder = recorder
            try:
                begin = time.time()
                time.sleep(BEFORE_SECONDS)
                action()
                self.wait_for_recovery(time.time(), recovery_seconds)
                result = self.evaluate(name, begin)
            finally:
                self._recorder = None
        if load is not None:
            result = load.counts(begin).added_to(result)
        self.results.append(result)
        return result

    def add_remark(self, text: str) -> None:
        """Add a sentence about the newest result to the page."""
        last = self.results[-1]
        self.results[-1] = msgspec.structs.replace(last, remark=f"{last.remark} {text}".strip())

    def evaluate(self, name: str, since: float, until: float = math.inf) -> Result:
        """Return the effect of what happened from *since* to *until*, in Unix seconds."""
        probers = [
            Prober(expected, [probe for probe in self.probes(pod, since) if probe.at < until])
            for pod, expected in self.expected.items()
        ]
        leaked = sum(each.leaked and each.at < until for each in self.bed.azure.requests(since))
        pauses = self._recorder.pauses() if self._recorder is not None else ()
        return evaluate(name, probers, leaked, pauses)

    def wait_for_recovery(self, since: float, seconds: float) -> None:
        """Wait until the last requests from *since* on have the expected outcome. Raise BedError after *seconds*."""

        def recovered() -> bool:
            return all(
                is_good(self.probes(pod, since), expected) for pod, expected in self.expected.items() if expected
            )

        wait_for(recovered, seconds, "the pods get no tokens")

    def probes(self, pod: str, since: float) -> list[Probe]:
        """Return the requests of a prober pod from *since* on, of all its containers so far."""
        folders = self.bed.nodes[0].log_folder.glob(f"default_{pod}_*/main")
        logs = sorted((log for folder in folders for log in folder.glob("*.log")), key=_number)
        probes = [probe for log in logs for probe in parse_log(log.read_text(errors="replace"))]
        return sorted((probe for probe in probes if probe.at >= since), key=lambda probe: probe.at)

    def save(self) -> None:
        """Write the results where `python -m tests.system.node.report` finds them."""
        if self.results:
            RESULTS.write_bytes(msgspec.json.format(msgspec.json.encode(self.results)))


def is_good(probes: Sequence[Probe], expected: str) -> bool:
    """Return whether the last GOOD_PROBES requests have the *expected* outcome."""
    last = probes[-GOOD_PROBES:]
    return len(last) == GOOD_PROBES and all(each.outcome == expected for each in last)


def _number(log: Path) -> float:
    """Return the sort key of a log: the time of its last change, because a restart adds a file."""
    return log.stat().st_mtime
