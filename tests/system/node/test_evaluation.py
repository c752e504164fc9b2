"""The evaluation of a scenario from logs that the test writes."""

import pytest

from tests.support.machine_pauses import Pause
from tests.system.node.evaluation import Probe, evaluate, interruption, parse

GOOD = "token demo"
PAUSED = [Probe(0.0, 0.01, GOOD), Probe(5.0, 0.01, GOOD)]
FAILING = [Probe(0.0, 0.01, GOOD), Probe(0.1, 2.0, "timeout"), Probe(2.2, 0.01, GOOD)]


def probes(*outcomes: str) -> list[Probe]:
    """Return one probe each 0.1 s."""
    return [Probe(number / 10, 0.01, outcome) for number, outcome in enumerate(outcomes)]


@pytest.mark.parametrize(
    ("found", "pauses", "expected"),
    [
        (probes(*[GOOD] * 5), [], 0.0),
        (probes(GOOD, "refused", "refused", GOOD), [], 0.3),
        (probes(GOOD, "http 404", GOOD, "timeout", GOOD), [], 0.4),
        (probes("refused", GOOD), [], 0.11),
        (probes(GOOD, "refused", "refused"), [], 0.2),
        (probes("refused"), [], 0.01),
        ([], [], 0.0),
        pytest.param(PAUSED, [], 5.0, id="a prober that did not run"),
        pytest.param(PAUSED, [Pause(0.05, 4.95)], 0.0, id="a pause of the machine"),
        pytest.param(PAUSED, [Pause(0.05, 2.0)], 5.0 - 1.95, id="a shorter pause of the machine"),
        pytest.param(FAILING, [Pause(0.5, 1.5)], 1.2, id="a pause in an interruption"),
        pytest.param(FAILING[:2], [Pause(0.5, 1.5)], 1.09, id="a pause in an interruption without an end"),
        pytest.param([Probe(0.0, 0.01, GOOD), Probe(0.1, 2.9, GOOD)], [], 2.99, id="a slow good request"),
    ],
)
def test_an_interruption_ends_with_the_next_good_request_and_includes_no_pause_of_the_machine(
    found: list[Probe], pauses: list[Pause], expected: float
) -> None:
    assert interruption(found, GOOD, pauses) == pytest.approx(expected)


def test_a_result_counts_refusals_failures_leaks_and_tokens_of_other_identities() -> None:
    result = evaluate(
        "delete NMI",
        [
            (GOOD, probes(GOOD, "refused", "http 503", "timeout", GOOD)),
            (GOOD, probes(GOOD, "token node")),
            ("", probes("http 404", "refused", GOOD)),
        ],
        leaked=3,
    )
    assert (result.interruption_seconds, result.refused, result.failed) == (0.4, 2, 2)
    assert (result.leaked, result.wrong) == (3, 2)
    assert result.outcomes == {
        "http 404": 1,
        "http 503": 1,
        "refused": 2,
        "timeout": 1,
        GOOD: 4,
        "token node": 1,
    }


def test_the_log_of_a_killed_container_is_read_up_to_its_last_line() -> None:
    text = (
        '2026-01-01T00:00:00.1Z stdout F {"at": 1.5, "seconds": 0.01, "outcome": "token demo"}\n'
        "2026-01-01T00:00:00.2Z stderr F Traceback\n"
        '2026-01-01T00:00:00.3Z stdout P {"at": 1.6, "sec'
    )
    assert list(parse(text, Probe)) == [Probe(1.5, 0.01, "token demo")]
