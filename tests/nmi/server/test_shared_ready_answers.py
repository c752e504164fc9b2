"""One ready answer for all pods with one token, and the exceptions. Excluded: the content of an answer."""

import gc
from dataclasses import replace
from weakref import ref

import msgspec

from _native.answers import ReadyAnswer, Usage
from _native.histogram import Histogram, Series
from nmi.identity.request import SelectorKind, TokenRequest
from nmi.server.issued_token import ReadyAnswers
from tests.nmi.server.fakes import RESOURCE, Grant, grant, pod_entry, token

ASKED = TokenRequest(RESOURCE, SelectorKind.NONE, "")
SERIES = Histogram((1000,)).series(("token", "200", "shop", RESOURCE))


def made(answers: ReadyAnswers, granted: Grant, series: Series = SERIES) -> ReadyAnswer:
    ready = answers.admit(granted, ASKED, series, 0)
    assert ready is not None
    if granted.cacheable:
        assert granted.record.find(RESOURCE.encode(), SelectorKind.NONE.value, b"", b"", 0) is ready
    return ready


def for_another_pod(granted: Grant) -> Grant:
    """The same token, for one more pod: as equal, not as the same objects."""
    return replace(granted, token=msgspec.structs.replace(granted.token), record=pod_entry(name="till").record)


def test_pods_with_the_same_token_share_one_ready_answer() -> None:
    answers, first = ReadyAnswers(), grant(pod_entry().record)
    assert made(answers, first) is made(answers, for_another_pod(first))


def test_a_shared_answer_outlives_the_pod_that_it_was_made_for() -> None:
    answers, first = ReadyAnswers(), grant(pod_entry().record)
    ready = made(answers, first)
    first.record.invalidate()
    assert made(answers, for_another_pod(first)) is ready


def test_a_different_token_gets_its_own_answer() -> None:
    answers, first = ReadyAnswers(), grant(pod_entry().record)
    renewed = replace(first, token=token(access_token="renewed"))
    assert b"renewed" not in made(answers, first).render(0)
    assert b"renewed" in made(answers, renewed).render(0)


def test_a_different_series_gets_its_own_answer() -> None:
    answers, first = ReadyAnswers(), grant(pod_entry().record)
    elsewhere = Histogram((1000,)).series(("token", "200", "till", RESOURCE))
    assert made(answers, first).series is SERIES
    assert made(answers, for_another_pod(first), elsewhere).series is elsewhere
    assert made(answers, first).series is SERIES


def test_a_different_freshness_gets_its_own_answer() -> None:
    answers, first = ReadyAnswers(), grant(pod_entry().record)
    earlier = made(answers, first)
    later = made(answers, replace(first, fresh_until_ns=first.fresh_until_ns + 1))
    assert (earlier.fresh_until_ns, later.fresh_until_ns) == (first.fresh_until_ns, first.fresh_until_ns + 1)
    assert made(answers, replace(first, expires_ns=first.expires_ns + 1)).expires_ns == first.expires_ns + 1


def test_a_different_usage_gets_its_own_answer() -> None:
    answers, first = ReadyAnswers(), grant(pod_entry().record)
    usage = Usage()
    made(answers, first)
    assert made(answers, replace(first, usage=usage)).usage is usage


def test_an_answer_that_one_pod_may_not_keep_is_kept_only_for_the_other() -> None:
    answers, first = ReadyAnswers(), grant(pod_entry().record)
    made(answers, first)
    other = replace(for_another_pod(first), cacheable=False)
    made(answers, other)
    assert other.record.find(RESOURCE.encode(), SelectorKind.NONE.value, b"", b"", 0) is None


def test_a_token_that_is_kept_nowhere_else_is_not_kept_here() -> None:
    answers, first = ReadyAnswers(), grant(pod_entry().record)
    made(answers, first)
    kept = ref(first.token)
    del first
    gc.collect()
    assert kept() is None
