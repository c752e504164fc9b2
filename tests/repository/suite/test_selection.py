"""Each test belongs to one make target, and each target runs the tests that belong to it."""

import asyncio
import os
import re
import shlex
import signal
import subprocess
import sys
from itertools import combinations
from pathlib import PurePath

import pytest
from _pytest.mark.expression import Expression

from tests import selection
from tests.support.checkout import ROOT
from tests.support.testplane import up

UNNAMED = frozenset({"images", "sdks"})
"""Markers of directories that pytest collects only where they are named."""


def commands() -> list[tuple[str, list[str], str]]:
    """Return the marker expression, the paths and the Hypothesis profile (empty: none) of each pytest command of
    `make test-all`, `make nightly` and `make e2e-cilium`."""
    command = ["make", "-n", "test-all", "nightly", "e2e-cilium", "CILIUM=/built"]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=True)

    parsed = []
    for line in made.stdout.splitlines():
        if "bin/pytest" in line:
            _, _, arguments = line.partition("bin/pytest")
            words = shlex.split(arguments)
            expression = words[words.index("-m") + 1] if "-m" in words else ""
            profiles = [word for word in words if word.startswith("--hypothesis-profile=")]
            parsed.append((expression, [word for word in words if word.startswith("tests/")], "".join(profiles)))
    return parsed


REPEATED = ("examples and ", "run_node and not long")
"""Starts of the expressions of `make test-examples` and `make test-node`, which run tests of other targets again."""


def once() -> list[tuple[str, list[str], str]]:
    """Return the commands that run a test for the first time."""
    return [command for command in commands() if not command[0].startswith(REPEATED)]


def runs(expression: str, paths: list[str], _profile: str, path: str, markers: frozenset[str]) -> bool:
    """Return whether a pytest command runs the test in *path* with these *markers*."""
    if paths and not any(PurePath(path).is_relative_to(folder) for folder in paths):
        return False
    if not paths and markers & UNNAMED:
        return False

    def has(name: str, /, **_: str | int | bool | None) -> bool:
        return name in markers

    return not expression or Expression.compile(expression).evaluate(has)


def test_each_collected_test_is_run_by_one_command(request: pytest.FixtureRequest) -> None:
    made = once()
    collected = request.config.stash[selection.COLLECTED]
    kinds = {(name.partition("::")[0], markers) for name, markers in collected}
    wrong = {
        path: matching
        for path, markers in kinds
        if len(matching := [command for command in made if runs(*command, path, markers)]) != 1
    }
    assert not wrong


def test_each_property_test_runs_with_all_its_examples_once(request: pytest.FixtureRequest) -> None:
    complete = [command for command in commands() if "quick" not in command[2]]
    for name, markers in request.config.stash[selection.COLLECTED]:
        if "examples" in markers:
            assert len([command for command in complete if runs(*command, name.partition("::")[0], markers)]) == 1, name


def test_each_directory_with_its_own_command_is_run() -> None:
    made = once()
    for directory, marker in selection.DIRECTORIES.items():
        markers = frozenset({marker, selection.run_of(frozenset({marker}))})
        assert len([command for command in made if runs(*command, f"tests/{directory}/test_a.py", markers)]) == 1, (
            directory
        )


def test_each_combination_of_needs_has_one_target() -> None:
    made = once()
    needs = sorted((selection.IN_TEST | selection.IN_TEST_ALL | {"nightly"}) - {"images", "model", "sdks"})
    for count in range(len(needs) + 1):
        for chosen in map(frozenset, combinations(needs, count)):
            markers = chosen | {selection.run_of(chosen)}
            assert len([command for command in made if runs(*command, "tests/test_a.py", markers)]) == 1, chosen


def test_each_long_file_exists() -> None:
    assert [path for path in selection.LONG if not (selection.TESTS / path).is_file()] == []


@pytest.mark.parametrize(
    ("folder", "refused"),
    [
        ("unit", {"contract", "nightly", "repository", "system"}),
        ("support", {"contract", "nightly", "repository", "system", "unit"}),
        ("system", {"repository"}),
    ],
)
def test_what_two_layers_use_is_in_support(folder: str, refused: set[str]) -> None:
    statement = re.compile(r"^\s*(?:from|import) tests\.(\w+)", re.MULTILINE)
    imports = {path: statement.findall(path.read_text()) for path in (selection.TESTS / folder).rglob("*.py")}
    assert sum(map(len, imports.values())) > 50
    assert {path: names for path, names in imports.items() if refused & set(names)} == {}


def test_needs_follow_from_fixtures_and_directories() -> None:
    assert set(selection.needs_of(PurePath("repository/deploy/test_a.py"), frozenset({"plane"}))) == {"tools", "plane"}
    assert set(selection.needs_of(PurePath("repository/deployed/test_a.py"), frozenset({"tmp_path"}))) == set()


@pytest.mark.parametrize("name", ["kubectl", "helm", "actionlint"])
def test_a_test_without_the_marker_downloads_nothing(name: str) -> None:
    with pytest.raises(RuntimeError, match="add the marker node or plane"):
        up.tool(name)


@pytest.mark.parametrize(
    ("command", "recognised"),
    [
        ("/tree/.venv/bin/python -m nmi --node=a", True),
        ("/usr/bin/setpriv --pdeathsig KILL -- /tree/.venv/bin/python -m mic", True),
        ("ip netns exec a /tree/.venv/bin/podidctl doctor", True),
        ("podidctl explain web", True),
        ("/tree/.venv/bin/python -m pytest tests/nmi", False),
        ("/bin/ls nmi", False),
        ("grep -m 1 mic", False),
        ("/tree/.venv/bin/python -c 'import nmi'", False),
    ],
)
def test_a_command_that_starts_a_program_is_recognised(command: str, recognised: bool) -> None:
    assert selection.starts_program(shlex.split(command)) is recognised


def test_a_test_without_the_marker_starts_no_program() -> None:
    command = [sys.executable, "-m", "podidctl", "--help"]
    with pytest.raises(RuntimeError, match="add the marker programs"):
        subprocess.run(command, check=True, timeout=60)
    with pytest.raises(RuntimeError, match="add the marker programs"):
        asyncio.run(asyncio.create_subprocess_exec(*command))


def test_child_processes_handle_sigint_where_the_parent_of_pytest_ignores_it() -> None:
    """Run a test of Ctrl-C as a child of `nohup make test &` would be: with SIGINT ignored."""
    test = "tests/repository/suite/test_selection.py::test_a_child_process_ends_by_sigint"
    pytest_command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", test]
    done = subprocess.run(
        ["/bin/sh", "-c", 'trap "" INT; exec "$@"', "sh", *pytest_command],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert re.search(r"^1 passed", done.stdout, re.MULTILINE)


def test_a_child_process_ends_by_sigint() -> None:
    code = "import signal, time; print(signal.getsignal(signal.SIGINT), flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
        assert child.stdout is not None
        assert b"default_int_handler" in child.stdout.readline()
        child.send_signal(signal.SIGINT)
        assert child.wait(10) == -signal.SIGINT
