"""Counters of NMI's own page of metrics, and rates between two reads."""

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from nmi.refusal import Reason
from nmi.server.metrics import ServerMetrics
from nmi.tokens.metrics import TokenMetrics
from podidctl.top.counters import Counters, UnreadableMetricsError, parse
from podidctl.top.rates import Rates, Reading, rates


def page(*, requests: int = 0, refusals: dict[Reason, int] | None = None, imds: int = 0, sign_ins: int = 0) -> str:
    """Return the text of /metrics of an NMI that has counted these events."""
    registry = CollectorRegistry()
    server, tokens = ServerMetrics(registry), TokenMetrics(registry)
    for number in range(requests):
        server.series("/metadata/identity/oauth2/token", 200 if number % 2 else 400, "shop", "").observe(1_000_000)
    for reason, count in (refusals or {}).items():
        for _ in range(count):
            server.refused(reason)
    for _ in range(imds):
        tokens.observe_imds(True, 0.1, None)
    for _ in range(sign_ins):
        tokens.observe_aad(0.1, None)
    return generate_latest(registry).decode()


def reading(at: float, uid: str = "uid", **counters: float) -> Reading:
    return Reading("kube-system/nmi", uid, at, Counters(**counters))  # type: ignore[arg-type]


def test_the_counters_of_a_page_of_nmi() -> None:
    found = parse(page(requests=5, refusals={Reason.POLICY: 2, Reason.OVERLOADED: 1}, imds=3, sign_ins=4))

    assert (found.requests, found.refused, found.imds_calls) == (5.0, 3.0, 3.0)
    assert found.refusals["policy"] == 2.0
    assert found.tokens == 0.0
    assert found.oldest_token_seconds == 0.0
    assert found.next_expiry_seconds is None, "no token is in use"


def test_a_page_without_a_metric_leaves_it_unknown() -> None:
    found = parse("aadpodidentity_nmi_index_size 3\n")
    assert found.pods == 3.0
    assert found.requests is found.refused is found.imds_calls is found.oldest_token_seconds is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<html>not here</html>",
        "aadpodidentity_nmi_index_size three\n",
        'aadpodidentity_nmi_refusals_total{reason="policy 1\n',
        "aadpodidentity_nmi_index_size NaN\n",
        "aadpodidentity_nmi_index_size +Inf\n",
        "other_metric 1\n",
        f"aadpodidentity_nmi_index_size {'9' * 400}\n",
        f"aadpodidentity_nmi_index_size 1 {'9' * 400}\n",
        "aadpodidentity_nmi_index_size 1e308\n" * 2,
        "\n".join(f'aadpodidentity_nmi_operations_duration_seconds_count{{a="{n}"}} 1e308' for n in "12"),
    ],
)
def test_other_pages_are_unreadable(text: str) -> None:
    with pytest.raises(UnreadableMetricsError):
        parse(text)


def test_reasons_and_metrics_that_nmi_does_not_have_cannot_reach_the_output() -> None:
    found = parse(
        'aadpodidentity_nmi_refusals_total{reason="\x1b[31m[red]"} 7\n'
        'aadpodidentity_nmi_refusals_total{reason="policy"} 1\n'
        "aadpodidentity_nmi_index_size_of_another 9\naadpodidentity_nmi_index_size 2\n" + "x" * 100_000
    )
    assert found.refusals == {"other": 7.0, "policy": 1.0}
    assert found.pods == 2.0


def test_rates_are_differences_over_the_time_between_the_reads() -> None:
    before = reading(10.0, requests=100.0, imds_calls=5.0)
    after = reading(14.0, requests=300.0, imds_calls=5.0)
    assert rates(before, after) == Rates(requests=50.0, refusals=None, imds_calls=0.0)


@pytest.mark.parametrize(
    ("before", "why"),
    [
        (None, "no former read"),
        (reading(10.0, uid="other", requests=1.0), "another pod"),
        (reading(13.9, requests=1.0), "a page that NMI rendered once"),
        (reading(10.0, requests=400.0), "a restarted NMI"),
        (reading(10.0, requests=1.0, imds_calls=9.0), "a restarted NMI whose requests are more than before"),
    ],
)
def test_reads_that_are_not_comparable_have_no_rate(before: Reading | None, why: str) -> None:
    assert rates(before, reading(14.0, requests=300.0, imds_calls=5.0)) == Rates(), why
