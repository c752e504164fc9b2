"""A mutant affects all programs that a test starts, is judged by the tests' failures, and is removed completely."""

import subprocess
from collections.abc import Iterator

import pytest

from tests.nightly.mutants.entries import Mutant, MutantError, tracked
from tests.nightly.mutants.run import Verdict, judged, result, sound
from tests.nightly.mutants.trees import Tree
from tests.support.checkout import ROOT

pytestmark = pytest.mark.tools

# Only the copy has this module and its test, so that no change of the product changes them.
SAMPLE = "podidentity/sample.py"
SAMPLE_TEXT = "LIMIT = 3\nUNTESTED = 300.0\n"
LIMITED = "tests/test_of_the_sample.py::test_the_limit"
LIMITED_TEXT = "from podidentity.sample import LIMIT\n\n\ndef test_the_limit():\n    assert LIMIT == 3\n"


def mutant(file: str, find: str, replace: str, *tests: str) -> Mutant:
    return Mutant("It holds.", tests or (LIMITED,), file, find, replace, name="topic/1")


@pytest.fixture(scope="module")
def tree() -> Iterator[Tree]:
    """One copy for this module. Not below /tmp, which may be another file system: then it could not be links."""
    made = Tree(ROOT / "build" / "mutants" / "test")
    made.make()
    (made.root / SAMPLE).write_text(SAMPLE_TEXT)
    (made.root / LIMITED.partition("::")[0]).write_text(LIMITED_TEXT)
    yield made
    subprocess.run(["rm", "-r", str(made.root)], check=True)


def output_of(tree: Tree, program: str, *arguments: str) -> str:
    return subprocess.check_output([tree.python.with_name(program), *arguments], cwd="/", text=True)


def test_the_copy_contains_every_tracked_file_and_its_links_lead_into_the_copy(tree: Tree) -> None:
    assert [name for name in tracked() if (ROOT / name).exists() and not (tree.root / name).exists()] == []
    links = [tree.root / name for name in tracked() if (ROOT / name).is_symlink()]
    assert links
    assert [link for link in links if not link.resolve().is_relative_to(tree.root)] == []


def test_programs_started_by_a_test_run_the_mutant(tree: Tree) -> None:
    commands = (("nmi", "--version"), ("python", "-m", "nmi", "--version"))
    before = [output_of(tree, *command) for command in commands]
    with tree.mutated(mutant("nmi/cli.py", 'f"nmi {VERSION}', 'f"mutant {VERSION}')):
        during = [output_of(tree, *command) for command in commands]
    assert all(line.startswith("nmi ") for line in before)
    assert all(line.startswith("mutant ") for line in during)
    assert [output_of(tree, *command) for command in commands] == before


def test_a_test_sees_the_mutant_and_the_file_is_restored(tree: Tree) -> None:
    killed = mutant(SAMPLE, "LIMIT = 3", "LIMIT = 4")
    assert result(tree, killed, set())[:2] == (Verdict.KILLED, "")
    survived = mutant(SAMPLE, "UNTESTED = 300.0", "UNTESTED = 301.0")
    assert result(tree, survived, set())[:2] == (Verdict.SURVIVED, f"still passes: {LIMITED}")
    assert (tree.root / SAMPLE).read_text() == SAMPLE_TEXT


@pytest.mark.parametrize("value", ["= 1", "sooon", "1 / 0"], ids=["syntax", "undefined-name", "fails-on-import"])
def test_a_change_that_breaks_the_module_is_not_judged(tree: Tree, value: str) -> None:
    verdict, reason, _ = result(tree, mutant(SAMPLE, "UNTESTED = 300.0", f"UNTESTED = {value}"), {LIMITED})
    assert verdict is Verdict.UNJUDGED
    assert "broken" in reason
    assert (tree.root / SAMPLE).read_text() == SAMPLE_TEXT


def test_a_compiled_module_is_compiled_with_its_mutant_and_restored(tree: Tree) -> None:
    code = "from _native.ready_responses import Usage; usage = Usage(); usage.touch(); print(usage.last_ns)"
    (module,) = tree.root.glob("_native/ready_responses.*.so")
    before = module.read_bytes()
    with tree.mutated(mutant("_native/ready_responses.pyx", "        self.last_ns = ", "        self.last_ns = 0 * ")):
        assert output_of(tree, "python", "-c", code) == "0\n"
    assert module.read_bytes() == before
    assert output_of(tree, "python", "-c", code) != "0\n"
    with (
        pytest.raises(MutantError, match="does not compile"),
        tree.mutated(mutant("_native/ready_responses.pyx", "        self.last_ns = ", "        self.last_ns = = ")),
    ):
        pass
    assert module.read_bytes() == before


def test_tests_that_take_too_long_are_ended_and_prove_nothing(tree: Tree) -> None:
    run = tree.run([LIMITED], 0.01)
    assert not run.in_time
    assert judged(mutant(SAMPLE, "a", "b"), run)[0] is Verdict.UNJUDGED
    assert sound([LIMITED], run) == "took too long without the change"
