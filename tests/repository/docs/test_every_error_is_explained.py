"""docs/troubleshooting.md contains exactly the sentences that NMI can return, with their status."""

import re

import pytest

from nmi.refusal import Reason
from nmi.server.responses import _FORMS
from tests.repository.docs.sentences import Sentence, pattern, refusals, returned
from tests.support.checkout import ROOT

PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()
ANSWERS = {
    heading: rest.strip()
    for heading, _, rest in (block.partition("\n") for block in re.split(r"^#### ", PAGE, flags=re.MULTILINE)[1:])
}
SENTENCES = refusals()
MICS = [
    *returned("mic/reconciliation/events.py", "advice", "refusal", "delay", "lost"),
    *returned("mic/decisions/assignments.py", "misconfigured"),
    *returned("mic/cluster/limited_groups.py", "beyond_limit"),
]


def test_the_number_of_messages_is_plausible() -> None:
    assert {sentence.reason for sentence in SENTENCES} == {reason.name for reason in Reason}
    assert len({sentence.parts for sentence in SENTENCES}) > 50
    assert len(MICS) == 11


@pytest.mark.parametrize("sentence", SENTENCES, ids=lambda sentence: "…".join(sentence.parts)[:60])
def test_each_message_has_a_heading_followed_by_its_status(sentence: Sentence) -> None:
    headings = [heading for heading in ANSWERS if pattern(sentence.parts).fullmatch(heading)]
    assert len(headings) == 1, f"{sentence.where}: {sentence.parts}"
    reason = Reason[sentence.reason]
    form = _FORMS[reason]
    summary = f"{form.status.value} `{form.error}`, reason `{reason.value}`"
    summary += ", with `Retry-After`" if form.has_retry_after else ""
    summary += ", and the connection ends" if form.ends_connection else ""
    assert ANSWERS[headings[0]].splitlines()[0] == summary


@pytest.mark.parametrize("heading", ANSWERS)
def test_each_heading_is_a_message_of_nmi_with_an_explanation(heading: str) -> None:
    assert any(pattern(sentence.parts).fullmatch(heading) for sentence in SENTENCES)
    assert len(ANSWERS[heading].splitlines()) > 2


@pytest.mark.parametrize("parts", MICS, ids=lambda parts: "…".join(parts)[:60])
def test_each_message_of_mic_is_in_the_table(parts: tuple[str, ...]) -> None:
    assert any(pattern(parts).fullmatch(row) for row in re.findall(r"^\| `([^`]+)` \|", PAGE, re.MULTILINE))
