"""Evaluation of a scenario: interruption and failed requests from the probers' logs, leaks from the log of IMDS."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from tests.support.machine_pauses import Pause, paused_seconds


@dataclass(frozen=True, slots=True)
class Probe:
    """One request of a prober. *at* is its start in Unix seconds."""

    at: float
    seconds: float
    outcome: str

    @property
    def end(self) -> float:
        return self.at + self.seconds


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """The effect of one scenario on the pods of a node."""

    scenario: str
    interruption_seconds: float
    """The longest time of one pod without a token of its identity."""
    refused: int = 0
    """Requests whose connection was refused."""
    failed: int = 0
    """Other requests without a token."""
    leaked: int = 0
    """Requests that reached the emulated IMDS directly from a pod."""
    wrong: int = 0
    """Tokens of another identity than the pod's, also for a pod without one."""
    remark: str = ""
    """What else was measured, as a sentence for the page."""
    outcomes: Mapping[str, int] = {}
    """The number of requests by their outcome."""


@dataclass(frozen=True, slots=True)
class Prober:
    """One prober pod: its probes in order, and the outcome that it must have; empty for a pod without identity."""

    expected: str
    probes: Sequence[Probe] = field(default_factory=tuple)


def parse_log(text: str) -> list[Probe]:
    """Return the probes in a container's log as containerd writes it: time, stream, `F` or `P`, line.

    Lines that are not a complete probe are ignored, such as the last line of a killed container.
    """
    found = []
    for line in text.splitlines():
        _, _, content = line.partition(" F ")
        if not content.startswith("{"):
            continue
        try:
            document = json.loads(content)
            found.append(Probe(float(document["at"]), float(document["seconds"]), str(document["outcome"])))
        except (ValueError, KeyError):
            continue
    return found


def parse_load_log(text: str, since: float = 0.0) -> tuple[Counter[str], float]:
    """Return the requests of a load pod by their outcome, and the seconds of the slowest, from its container's log.

    Only lines from *since* on count, in Unix seconds.
    """
    outcomes: Counter[str] = Counter()
    slowest = 0.0
    for line in text.splitlines():
        _, _, content = line.partition(" F ")
        if not content.startswith("{"):
            continue
        document = json.loads(content)
        if document["at"] >= since:
            outcomes.update(document["outcomes"])
            slowest = max(slowest, document["slowest"])
    return outcomes, slowest


def interruption(probes: Sequence[Probe], expected: str, pauses: Sequence[Pause] = ()) -> float:
    """Return the sum of the times from the end of the last good request to the end of the next, in seconds.

    An interruption that lasts until the end of the log counts until the end of the last probe. A pause between two good
    requests counts if it is longer than a second: the prober itself was stopped then. *pauses* of the whole machine do
    not count.
    """
    total = 0.0
    last_good: float | None = None
    failing = False
    for probe in probes:
        begin = probe.at if last_good is None else last_good
        if probe.outcome != expected:
            last_good = begin
            failing = True
            continue
        seconds = _running_seconds(begin, probe.end, pauses)
        if failing or (last_good is not None and seconds > 1.0):
            total += seconds
        failing = False
        last_good = probe.end
    if failing and probes and last_good is not None:
        total += _running_seconds(last_good, probes[-1].end, pauses)
    return total


def _running_seconds(begin: float, end: float, pauses: Sequence[Pause]) -> float:
    """Return the time from *begin* to *end* without *pauses* of the machine, in seconds."""
    return end - begin - paused_seconds(pauses, begin, end)


def evaluate(scenario: str, probers: Iterable[Prober], leaked: int, pauses: Sequence[Pause] = ()) -> Result:
    """Return the result of a scenario from the logs of its *probers* and the number of *leaked* requests.

    The interruption does not include *pauses* of the whole machine.
    """
    longest, wrong = 0.0, 0
    outcomes: Counter[str] = Counter()
    for prober in probers:
        outcomes.update(probe.outcome for probe in prober.probes)
        wrong += sum(each.outcome.startswith("token ") and each.outcome != prober.expected for each in prober.probes)
        if prober.expected:
            longest = max(longest, interruption(prober.probes, prober.expected, pauses))
    refused = outcomes["refused"]
    failed = sum(count for outcome, count in outcomes.items() if outcome.startswith(("timeout", "error")))
    failed += sum(count for outcome, count in outcomes.items() if outcome.startswith("http 5"))
    return Result(
        scenario=scenario,
        interruption_seconds=round(longest, 1),
        refused=refused,
        failed=failed,
        leaked=leaked,
        wrong=wrong,
        outcomes=dict(sorted(outcomes.items())),
    )
