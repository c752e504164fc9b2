"""The count of the soak on a real node, without one."""

from collections import Counter

from tests.soak.real_node import Report, add


def test_a_token_of_another_identity_is_wrong_and_former_if_its_address_had_it() -> None:
    report = Report("bridge")
    outcomes = Counter({"new token mine": 5, "kept token theirs": 2, "kept token node": 1})
    add(report, outcomes, "mine", frozenset({"theirs"}))
    assert (report.answers, report.right, report.wrong, report.former) == (8, 8, 3, 2)
    assert report.broken() == ["3 tokens of another identity"]


def test_every_token_of_a_pod_without_identity_is_wrong() -> None:
    report = Report("bridge")
    add(report, Counter({"new http 404": 9, "new token soak-1": 1}), "", frozenset())
    assert (report.answers, report.wrong, report.former) == (10, 1, 0)


def test_requests_without_a_response_are_no_answers() -> None:
    report = Report("ptp")
    add(
        report,
        Counter({"new refused": 3, "kept closed": 2, "new timeout": 1, "new token mine": 4}),
        "mine",
        frozenset(),
    )
    assert report.answers == 4
    assert report.outcomes == {"new refused": 3, "kept closed": 2, "new timeout": 1, "new token": 4}


def test_few_tokens_break_the_promise() -> None:
    report = Report("ptp")
    add(report, Counter({"new http 503": 3, "new token mine": 1}), "mine", frozenset())
    assert report.broken() == ["only 1 of 4 answers are right"]
