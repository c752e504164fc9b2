"""The evaluation of a scenario from logs that the test writes."""

import pytest

from tests.support.machine_pauses import Pause
from tests.system.node.evaluation import Probe, evaluate, interruption, parse

GOOD = "token demo"
SLOW = [Probe(0.0, 0.01, GOOD), Probe(0.1, 2.9, GOOD)]
FAILING = [Probe(0.0, 0.01, GOOD), Probe(0.1, 2.0, "timeout"), Probe(2.2, 0.01, GOOD)]


def probes(*outcomes: str) -> list[Probe]:
    """Return one probe each 0.1 s."""
    return [Probe(number / 10, 0.01, outcome) for number, outcome in enumerate(outcomes)]


@pytest.mark.parametrize(
    ("sent", "pauses", "expected"),
    [
        (probes(*[GOOD] * 5), [], 0.0),
        (probes(GOOD, "refused", "refused", GOOD), [], 0.3),
        (probes(GOOD, "http 404", GOOD, "timeout", GOOD), [], 0.4),
        (probes("refused", GOOD), [], 0.11),
        (probes(GOOD, "refused", "refused"), [], 0.2),
        (probes("refused"), [], 0.01),
        ([], [], 0.0),
        pytest.param([Probe(0.0, 0.01, GOOD), Probe(5.0, 0.01, GOOD)], [], 0.0, id="a prober that did not run"),
        pytest.param([Probe(0.0, 0.01, GOOD), Probe(5.0, 0.01, GOOD, process=4.9)], [], 5.0, id="a prober that ended"),
        pytest.param(SLOW, [], 2.9, id="a slow good request"),
        pytest.param(
            [Probe(0.0, 2.9, GOOD, cpu_wait=1.0)], [Pause(0.1, 1.0)], 1.9, id="a pause in which programs wait for a CPU"
        ),
        pytest.param(SLOW, [Pause(0.05, 2.95)], 0.0, id="a pause of the machine in it"),
        pytest.param(SLOW, [Pause(0.05, 1.1)], 1.9, id="a shorter pause of the machine in it"),
        pytest.param([Probe(0.0, 2.9, GOOD, cpu_wait=2.0)], [], 0.0, id="a slow good request without a CPU"),
        pytest.param(
            [Probe(0.0, 2.9, GOOD, cpu_wait=1.0)], [], 1.9, id="a slow good request with a CPU after a second"
        ),
        pytest.param(
            [FAILING[0], Probe(0.1, 2.0, "timeout", cpu_wait=2.0), FAILING[2]],
            [],
            2.2,
            id="a failed request without a CPU",
        ),
        pytest.param(FAILING, [Pause(0.5, 1.5)], 1.2, id="a pause in an interruption"),
        pytest.param(FAILING[:2], [Pause(0.5, 1.5)], 1.09, id="a pause in an interruption without an end"),
    ],
)
def test_an_interruption_is_a_failed_or_a_slow_request_and_does_not_depend_on_the_machines_speed(
    sent: list[Probe], pauses: list[Pause], expected: float
) -> None:
    assert interruption(sent, GOOD, pauses) == pytest.approx(expected)


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
