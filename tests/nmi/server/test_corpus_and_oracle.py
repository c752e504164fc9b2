"""The corpus and the oracle agree, without any lane: no refused request is one for a token, every accepted one is."""

import pytest

from tests.corpus.corpus import ACCEPTED, REFUSED, Case
from tests.oracle.requests import Asked, Verdict, read


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
def test_a_refused_request_is_no_token_request(case: Case) -> None:
    assert not isinstance(read(case.data), Asked)


@pytest.mark.parametrize("case", [case for case in ACCEPTED if len(case.data) < 4000], ids=lambda case: case.name)
def test_an_accepted_request_is_a_token_request_unless_the_oracle_cannot_decide(case: Case) -> None:
    verdict = read(case.data)

    assert isinstance(verdict, Asked) or (verdict is Verdict.UNSURE and not case.grants_fast)
