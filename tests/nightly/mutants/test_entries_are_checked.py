"""What an entry must have, and which rows a set of entries covers."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.nightly.mutants.entries import Mutant, MutantError, fault, read, uncovered
from tests.repository.docs.threat_tables import Row

FIRST = "tests/unit/nmi/test_issuer.py::test_only_the_peers_address_identifies_the_pod"
SECOND = "tests/unit/nmi/test_issuer.py::test_a_refusal_contains_azures_message_code_and_correlation_id"
GOOD = Mutant("topic", 1, "It starts.", (FIRST,), "nmi/__main__.py", "sys.exit(", "print(")


def row(line: int, *tests: str) -> Row:
    return Row(line, ("a threat", "a promise", "<br>".join(f"`{test}`" for test in tests)))


def entry(**changed: str) -> str:
    keys = {
        "breaks": '"It starts."',
        "tests": f'["{FIRST}"]',
        "file": '"nmi/__main__.py"',
        "find": "'''main'''",
        "replace": "'''print'''",
    } | changed
    return "[[mutant]]\n" + "".join(f"{key} = {value}\n" for key, value in keys.items() if value)


def test_a_file_holds_entries_with_and_without_slow(tmp_path: Path) -> None:
    file = tmp_path / "some.toml"
    file.write_text(entry() + entry(slow="true"))
    first, second = read(file)
    assert (first.name, first.slow, first.tests, first.find) == ("some/1", False, (FIRST,), "main")
    assert (second.name, second.slow) == ("some/2", True)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[[mutant", "not TOML"),
        ("[other]\n", "entries only"),
        ("", "entries only"),
        (entry(find=""), "lacks find"),
        (entry(files='"x"'), "unknown keys: files"),
        (entry(tests='"x"'), "tests must be of type list"),
        (entry(tests="[]"), "at least one"),
        (entry(tests="[1]"), "at least one"),
        (entry(tests=f'["{FIRST}", "{FIRST}"]'), "each once"),
        (entry(slow="1"), "slow must be of type bool"),
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
        (replace(GOOD, file="/etc/passwd"), "not a tracked file"),
        (replace(GOOD, file="tests/support/leaks.py"), "no part of the product"),
        (replace(GOOD, file="docs/security.md"), "no part of the product"),
        (replace(GOOD, find="nothing of that"), "occurs 0 times"),
        (replace(GOOD, find="i"), "occurs"),
        (replace(GOOD, replace="sys.exit("), "changes nothing"),
        (replace(GOOD, breaks=" "), "one sentence"),
        (replace(GOOD, tests=("tests/unit/nmi/test_issuer.py::test_none",)), "no such test"),
        (replace(GOOD, tests=("tests/nmi/none.py::test_none",)), "no such test"),
        (replace(GOOD, tests=(SECOND,)), "no row"),
    ],
)
def test_an_entry_that_does_not_match_is_rejected(wrong: Mutant, complaint: str) -> None:
    assert fault(GOOD, [row(1, FIRST)]) is None
    found = fault(wrong, [row(1, FIRST)])
    assert found is not None
    assert complaint in found


def test_each_row_needs_its_own_mutant_whose_tests_it_names_all_of() -> None:
    assert uncovered([row(1, FIRST, SECOND)], [GOOD]) == []
    beyond = replace(GOOD, tests=(FIRST, SECOND))
    assert uncovered([row(1, FIRST)], [beyond]) == [row(1, FIRST)]
    table = [row(1, FIRST, SECOND), row(2, FIRST)]
    assert uncovered(table, [GOOD]) == [row(2, FIRST)]
    assert uncovered(table, [GOOD, replace(GOOD, number=2)]) == []
    # The first row's only candidate at first sight is the second row's only one: the matching finds the other.
    assert uncovered(table, [GOOD, replace(GOOD, number=2, tests=(SECOND,))]) == []
