"""What an entry must have, which rows a set of entries covers, and when a mutant counts as killed."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.nightly.mutants.entries import Mutant, MutantError, faults, read, uncovered
from tests.nightly.mutants.outcomes import Outcome
from tests.nightly.mutants.run import Verdict, judged, sound
from tests.nightly.mutants.trees import Run
from tests.repository.docs.threat_tables import Row

FIRST = "tests/unit/nmi/test_token_service.py::test_only_the_peers_address_identifies_the_pod"
SECOND = "tests/unit/nmi/test_token_service.py::test_a_refusal_contains_azures_message_code_and_correlation_id"
GOOD = Mutant("It starts.", (FIRST,), "nmi/__main__.py", "sys.exit(", "print(", name="topic/1")
ENTRY = f"""
[[mutant]]
breaks = "It starts."
tests = ["{FIRST}"]
file = "nmi/__main__.py"
find = "sys.exit("
replace = "print("
"""


def row(line: int, *tests: str) -> Row:
    return Row(line, "a section", ("a threat", "a promise", "<br>".join(f"`{test}`" for test in tests)))


def test_a_file_holds_entries_with_and_without_slow(tmp_path: Path) -> None:
    file = tmp_path / "topic.toml"
    file.write_text(f"{ENTRY}{ENTRY}slow = true")
    assert read(file) == [GOOD, replace(GOOD, name="topic/2", slow=True)]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[[mutant", "some.toml: "),
        ("[other]\n", "unknown field `other`"),
        (ENTRY.replace("find", "files"), "unknown field `files`"),
        (ENTRY.replace('find = "sys.exit("\n', ""), "missing required field `find`"),
        (f"{ENTRY}slow = 1", "Expected `bool`"),
    ],
)
def test_an_entry_of_the_wrong_shape_is_rejected(tmp_path: Path, text: str, complaint: str) -> None:
    file = tmp_path / "some.toml"
    file.write_text(text)
    with pytest.raises(MutantError, match=complaint):
        read(file)


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        (replace(GOOD, file="nmi/none.py"), "not a tracked file"),
        (replace(GOOD, file="tests/support/leaks.py"), "no part of the product"),
        (replace(GOOD, file="docs/security.md"), "no part of the product"),
        (replace(GOOD, find="nothing of that"), "occurs 0 times"),
        (replace(GOOD, find="i"), "occurs"),
        (replace(GOOD, replace="sys.exit("), "changes nothing"),
        (replace(GOOD, breaks=" "), "one sentence"),
        (replace(GOOD, tests=()), "at least one"),
        (replace(GOOD, tests=(FIRST, FIRST)), "each once"),
        (replace(GOOD, tests=("tests/unit/nmi/test_token_service.py::test_none",)), "no such test"),
        (replace(GOOD, tests=("tests/nmi/none.py::test_none",)), "no such test"),
        (replace(GOOD, tests=(SECOND,)), "no row"),
    ],
)
def test_an_entry_that_does_not_match_is_rejected(wrong: Mutant, complaint: str) -> None:
    assert list(faults(GOOD, [row(1, FIRST)])) == []
    assert complaint in " ".join(faults(wrong, [row(1, FIRST)]))


def test_each_row_needs_its_own_mutant_whose_tests_it_names_all_of() -> None:
    assert uncovered([row(1, FIRST, SECOND)], [GOOD]) == []
    beyond = replace(GOOD, tests=(FIRST, SECOND))
    assert uncovered([row(1, FIRST)], [beyond]) == [row(1, FIRST)]
    table = [row(1, FIRST, SECOND), row(2, FIRST)]
    assert uncovered(table, [GOOD]) == [row(2, FIRST)]
    assert uncovered(table, [GOOD, replace(GOOD, name="topic/2")]) == []
    # The first row's only candidate at first sight is the second row's only one: the matching finds the other.
    assert uncovered(table, [GOOD, replace(GOOD, name="topic/2", tests=(SECOND,))]) == []


PASSED = Outcome("one", "call", "passed")
FAILED = Outcome("one", "call", "failed", ("AssertionError",))


@pytest.mark.parametrize(
    ("outcomes", "verdict"),
    [
        ([FAILED], Verdict.KILLED),
        ([PASSED, FAILED, PASSED], Verdict.KILLED),
        ([PASSED, Outcome("one", "teardown", "failed")], Verdict.KILLED),
        ([PASSED], Verdict.SURVIVED),
        ([], Verdict.UNJUDGED),
        ([Outcome("one", "setup", "failed", ("AssertionError",))], Verdict.UNJUDGED),
        ([Outcome("one", "call", "failed", ("ImportError", "ModuleNotFoundError"))], Verdict.UNJUDGED),
        ([Outcome("one", "call", "failed", ("NameError",))], Verdict.UNJUDGED),
        ([Outcome("one", "call", "failed", ("Skipped",))], Verdict.UNJUDGED),
        ([FAILED, Outcome("x.py", "collect", "failed")], Verdict.UNJUDGED),
    ],
)
def test_only_a_failure_of_its_test_kills_a_mutant(outcomes: list[Outcome], verdict: Verdict) -> None:
    assert judged(replace(GOOD, tests=("one",)), Run(outcomes))[0] is verdict


def test_each_of_its_tests_must_fail() -> None:
    passed = Outcome("two", "call", "passed")
    assert judged(replace(GOOD, tests=("one", "two")), Run([FAILED, passed])) == (
        Verdict.SURVIVED,
        "still passes: two",
    )


@pytest.mark.parametrize("outcomes", [[], [FAILED], [Outcome("one", "setup", "passed")], [PASSED, FAILED]])
def test_a_test_that_does_not_pass_without_the_change_proves_nothing(outcomes: list[Outcome]) -> None:
    assert sound(["one"], Run(outcomes)) == "one does not pass without the change"
    assert sound(["one"], Run([Outcome("one", "setup", "passed"), PASSED])) is None
