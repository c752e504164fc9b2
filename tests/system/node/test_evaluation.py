"""The evaluation of a scenario from logs that the test writes."""

import pytest

from tests.support.machine_pauses import Pause
from tests.system.node.evaluation import Probe, Prober, evaluate, interruption, parse_log

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


PAUSED = [Probe(0.0, 0.01, GOOD), Probe(5.0, 0.01, GOOD)]
FAILING = [Probe(0.0, 0.01, GOOD), Probe(0.1, 2.0, "timeout"), Probe(2.2, 0.01, GOOD)]


@pytest.mark.parametrize(
    ("found", "pauses", "expected"),
    [
        pytest.param(PAUSED, [], 5.0, id="a prober that did not run"),
        pytest.param(PAUSED, [Pause(0.05, 4.95)], 0.0, id="a pause of the machine"),
        pytest.param(PAUSED, [Pause(0.05, 2.0)], 5.0 - 1.95, id="a shorter pause of the machine"),
        pytest.param(FAILING, [Pause(0.5, 1.5)], 1.2, id="a pause in an interruption"),
        pytest.param(FAILING[:2], [Pause(0.5, 1.5)], 1.09, id="a pause in an interruption without an end"),
        pytest.param([Probe(0.0, 0.01, GOOD), Probe(0.1, 2.9, GOOD)], [], 2.99, id="a slow good request"),
    ],
)
def test_pauses_of_the_prober_count_and_those_of_the_machine_do_not(
    found: list[Probe], pauses: list[Pause], expected: float
) -> None:
    assert interruption(found, GOOD, pauses) == pytest.approx(expected)


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
    assert (result.interruption_seconds, result.refused, result.failed) == (0.4, 2, 2)
    assert (result.leaked, result.wrong) == (3, 0)
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
