"""Evaluation of a scenario: interruption and failed requests from the logs of pods, leaks from the log of IMDS."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, TypeVar

import msgspec

from tests.support.machine_pauses import Pause, paused_seconds

FAILURES: Final = ("timeout", "error", "http 5")
"""The begins of the outcomes that count as failed."""
SLOW_SECONDS: Final = 1.0
"""A request that takes longer is an interruption, although it does not fail."""


class Probe(msgspec.Struct, frozen=True):
    """One request of a prober. *at* is its start in Unix seconds."""

    at: float
    seconds: float
    outcome: str
    cpu_wait: float = 0.0
    """The seconds of the request in which programs of the machine waited for a CPU."""
    process: float = 0.0
    """When the prober's process started, in Unix seconds."""

    @property
    def end(self) -> float:
        return self.at + self.seconds


class LoadCounts(msgspec.Struct, frozen=True):
    """The requests of a load pod since its last line, by their outcome. *at* is in Unix seconds."""

    at: float
    outcomes: dict[str, int]
    slowest: float


Line = TypeVar("Line", Probe, LoadCounts)


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """The effect of one scenario on the pods of a node."""

    scenario: str
    interruption_seconds: float
    """The longest time of one pod without a token of its identity."""
    refused: int
    """Requests whose connection was refused."""
    failed: int
    """Other requests without a token."""
    leaked: int
    """Requests that reached the emulated IMDS directly from a pod."""
    wrong: int
    """Tokens of another identity than the pod's, also for a pod without one."""
    remark: str = ""
    """What else was measured, as a sentence for the page."""
    outcomes: Mapping[str, int]
    """The number of requests by their outcome."""

    @property
    def has_no_effect(self) -> bool:
        """Whether no request leaked, was refused, failed, or got a token of another identity."""
        return (self.leaked, self.refused, self.failed, self.wrong) == (0, 0, 0, 0)


def parse(text: str, kind: type[Line]) -> Iterator[Line]:
    """Yield the lines in a container's log as containerd writes it: time, stream, `F` or `P`, line.

    Lines that are not complete are ignored, such as the last line of a killed container.
    """
    for line in text.splitlines():
        _, _, content = line.partition(" F ")
        try:
            yield msgspec.json.decode(content, type=kind)
        except msgspec.DecodeError:
            continue


def parse_load_log(text: str, since: float = 0.0) -> tuple[Counter[str], float]:
    """Return the requests of a load pod by their outcome, and the seconds of the slowest, from its container's log.

    Only lines from *since* on count, in Unix seconds.
    """
    outcomes: Counter[str] = Counter()
    slowest = 0.0
    for line in parse(text, LoadCounts):
        if line.at >= since:
            outcomes.update(line.outcomes)
            slowest = max(slowest, line.slowest)
    return outcomes, slowest


def interruption(probes: Sequence[Probe], expected: str, pauses: Sequence[Pause] = ()) -> float:
    """Return the sum of the times from the end of the last good request before a failed one to the end of the next good
    request, in seconds.

    An interruption that lasts until the end of the log counts until the end of the last probe. A slow good request
    counts without the time in which programs of the machine waited for a CPU. The time between two good requests of one
    process is the prober's own; that between two processes counts. *pauses* of the whole machine do not count.
    """
    total = 0.0
    last_good: float | None = None
    failing = False
    for number, probe in enumerate(probes):
        good, last = probe.outcome == expected, number == len(probes) - 1
        failing = failing or (number > 0 and probe.process != probes[number - 1].process)
        begin = probe.at if last_good is None or (good and not failing) else last_good
        paused = paused_seconds(pauses, begin, probe.end)
        seconds = probe.end - begin - paused
        if good and not failing:
            # Programs may wait for a CPU during a pause, too.
            slow = probe.seconds - max(paused, probe.cpu_wait)
            total += slow if slow > SLOW_SECONDS else 0.0
        elif good or last:
            total += seconds
        failing, last_good = not good, probe.end if good else begin
    return total


def evaluate(
    scenario: str,
    probers: Sequence[tuple[str, Sequence[Probe]]],
    leaked: int,
    pauses: Sequence[Pause] = (),
) -> Result:
    """Return the result of a scenario from its probers and the number of *leaked* requests.

    A prober has the outcome that its probes must have, which is empty for a pod without identity, and the probes in
    order. The interruption does not include *pauses* of the whole machine.
    """
    outcomes = Counter(probe.outcome for _, probes in probers for probe in probes)
    interruptions = [interruption(probes, expected, pauses) for expected, probes in probers if expected]
    wrong = [
        probe
        for expected, probes in probers
        for probe in probes
        if probe.outcome.startswith("token ") and probe.outcome != expected
    ]
    return Result(
        scenario=scenario,
        interruption_seconds=round(max(interruptions, default=0.0), 1),
        refused=outcomes["refused"],
        failed=sum(count for outcome, count in outcomes.items() if outcome.startswith(FAILURES)),
        leaked=leaked,
        wrong=len(wrong),
        outcomes=dict(sorted(outcomes.items())),
    )
