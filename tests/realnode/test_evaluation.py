"""The evaluation of a scenario from logs that the test writes."""

import pytest

from tests.machine_pauses import Pause
from tests.realnode.evaluation import Probe, Prober, evaluate, interruption, parse_log, parse_pull

GOOD = "token demo"


def probes(*outcomes: str, seconds: float = 0.01) -> list[Probe]:
    """Return one probe each 0.1 s."""
    return [Probe(number / 10, seconds, outcome) for number, outcome in enumerate(outcomes)]


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ([GOOD] * 5, 0.0),
        ([GOOD, "refused", "refused", GOOD], 0.3),
        ([GOOD, "http 404", GOOD, "timeout", GOOD], 0.4),
        (["refused", GOOD], 0.11),
        ([GOOD, "refused", "refused"], 0.2),
        (["refused"], 0.01),
        ([], 0.0),
    ],
)
def test_an_interruption_ends_with_the_next_good_request(outcomes: list[str], expected: float) -> None:
    assert interruption(probes(*outcomes), GOOD) == pytest.approx(expected)


def test_a_prober_that_did_not_run_counts_as_interrupted() -> None:
    paused = [Probe(0.0, 0.01, GOOD), Probe(5.0, 0.01, GOOD)]
    assert interruption(paused, GOOD) == pytest.approx(5.0)


def test_a_pause_of_the_machine_is_no_interruption() -> None:
    paused = [Probe(0.0, 0.01, GOOD), Probe(5.0, 0.01, GOOD)]
    assert interruption(paused, GOOD, [Pause(0.05, 4.95)]) == 0.0
    assert interruption(paused, GOOD, [Pause(0.05, 2.0)]) == pytest.approx(5.0 - 1.95), "the rest is longer than 1 s"


def test_an_interruption_does_not_include_a_pause_of_the_machine() -> None:
    failing = [Probe(0.0, 0.01, GOOD), Probe(0.1, 2.0, "timeout"), Probe(2.2, 0.01, GOOD)]
    assert interruption(failing, GOOD, [Pause(0.5, 1.5)]) == pytest.approx(1.2)
    assert interruption(failing[:2], GOOD, [Pause(0.5, 1.5)]) == pytest.approx(1.09)


def test_a_slow_good_request_is_an_interruption() -> None:
    assert interruption([Probe(0.0, 0.01, GOOD), Probe(0.1, 2.9, GOOD)], GOOD) == pytest.approx(2.99)


def test_a_result_counts_refusals_failures_and_leaks() -> None:
    result = evaluate(
        "delete NMI",
        [
            Prober(GOOD, probes(GOOD, "refused", "http 503", "timeout", GOOD)),
            Prober(GOOD, probes(GOOD, GOOD)),
            Prober("", probes("http 404", "refused")),
        ],
        leaked=3,
    )
    assert (result.interruption_seconds, result.refused, result.failed, result.leaked, result.wrong) == (
        0.4,
        2,
        2,
        3,
        0,
    )
    assert result.outcomes == {"http 404": 1, "http 503": 1, "refused": 2, "timeout": 1, GOOD: 4}


def test_a_token_of_another_identity_is_wrong() -> None:
    result = evaluate("x", [Prober(GOOD, probes(GOOD, "token node")), Prober("", probes(GOOD))], leaked=0)
    assert result.wrong == 2


def test_the_log_of_a_killed_container_is_read_up_to_its_last_line() -> None:
    text = (
        '2026-01-01T00:00:00.1Z stdout F {"at": 1.5, "seconds": 0.01, "outcome": "token demo"}\n'
        "2026-01-01T00:00:00.2Z stderr F Traceback\n"
        '2026-01-01T00:00:00.3Z stdout P {"at": 1.6, "sec'
    )
    assert parse_log(text) == [Probe(1.5, 0.01, "token demo")]


@pytest.mark.parametrize(
    ("message", "pull"),
    [
        ('Successfully pulled image "a" in 980ms (981ms including waiting). Image size: 5 bytes.', (0.98, 5)),
        ('Successfully pulled image "a" in 1m2.5s (1m3s including waiting). Image size: 5 bytes.', (62.5, 5)),
        ('Container image "a" already present on machine', None),
    ],
)
def test_the_time_of_a_pull_is_that_of_the_kubelets_event(message: str, pull: tuple[float, int] | None) -> None:
    assert parse_pull(message) == pull
