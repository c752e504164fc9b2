"""The count of the soak on a real node, without one."""

from collections import Counter

import pytest

from tests.nightly.soak.real_node import Report


@pytest.mark.parametrize(
    ("outcomes", "identity", "counts", "broken"),
    [
        (
            {"new token mine": 5, "kept token theirs": 2, "kept token node": 1},
            "mine",
            (8, 8, 3, 2),
            ["3 tokens of another identity"],
        ),
        ({"new http 404": 9, "new token soak-1": 1}, "", (10, 10, 1, 0), ["1 tokens of another identity"]),
        ({"new refused": 3, "kept closed": 2, "new timeout": 1, "new token mine": 4}, "mine", (4, 4, 0, 0), []),
        ({"new http 503": 3, "new token mine": 1}, "mine", (4, 1, 0, 0), ["only 1 of 4 answers are right"]),
    ],
    ids=["another identity's, or a former pod's", "a pod without an identity", "no responses", "few tokens"],
)
def test_wrong_tokens_and_few_right_answers_break_the_promise(
    outcomes: dict[str, int], identity: str, counts: tuple[int, ...], broken: list[str]
) -> None:
    report = Report()
    report.add(Counter(outcomes), identity, frozenset({"theirs"}))
    assert (report.answers, report.right, report.wrong, report.former) == counts
    assert report.broken() == broken
    assert report.outcomes.total() == sum(outcomes.values())


def test_requests_past_nmi_break_the_promise() -> None:
    assert Report(leaked=2).broken() == ["2 requests reached IMDS past NMI"]
