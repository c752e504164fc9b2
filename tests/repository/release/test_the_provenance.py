"""The provenance names each artifact, the commit and the locks, and conforms to in-toto and SLSA."""

import functools
import hashlib
import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.checkout import ROOT
from tools.release.provenance import INPUTS, Build, statement, text_of
from tools.release.summary import Artifact, differences

COMMIT: Final = "8f7d07c1a9d64f5c0505b2f1934a0f298093f2ae"
BUILD: Final = Build(commit=COMMIT, epoch=1_700_000_000, python="3.11.7", machine="x86_64")
WHEEL: Final = Artifact("a.whl", hashlib.sha256(b"wheel").hexdigest())
CHECK: Final = """
import json, sys
from tools.release.commands import ReleaseError
from tools.release.validation import check_statement
refused = {}
for name, text in json.load(sys.stdin).items():
    try:
        check_statement(text)
    except ReleaseError as error:
        refused[name] = str(error)
json.dump(refused, sys.stdout)
"""


def made(**changes: Any) -> dict[str, Any]:
    """Return the statement of a build of WHEEL."""
    return statement([WHEEL], replace(BUILD, **changes), ROOT)


def test_each_artifact_is_a_subject_and_the_commit_and_all_locks_are_dependencies() -> None:
    assert made()["subject"] == [{"name": "a.whl", "digest": {"sha256": WHEEL.sha256}}]
    source, *others = made()["predicate"]["buildDefinition"]["resolvedDependencies"]
    assert source == {"name": "source", "digest": {"gitCommit": COMMIT}}
    assert [dependency["name"] for dependency in others] == list(INPUTS)
    assert others[0]["digest"]["sha256"] == hashlib.sha256((ROOT / INPUTS[0]).read_bytes()).hexdigest()
    # The address and the base of the images, if they are known.
    digest = "a" * 64
    document = made(url="https://git.example/o/p", base=f"localhost/base@sha256:{digest}")
    source, *_, base = document["predicate"]["buildDefinition"]["resolvedDependencies"]
    assert source["uri"] == "git+https://git.example/o/p"
    assert base == {"name": "localhost/base", "digest": {"sha256": digest}}


def test_a_file_that_differs_in_the_second_build_is_named(tmp_path: Path) -> None:
    for folder, text in {"first": "equal", "again": "equal", "other": "different"}.items():
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.whl").write_text(text)
    first, again, other = ([tmp_path / folder / "a.whl"] for folder in ("first", "again", "other"))
    assert list(differences(first, again)) == []
    (difference,) = differences(first, other)
    assert f"compare {first[0]} with {other[0]}" in difference


def without(*path: str) -> dict[str, Any]:
    """Return the statement without the field at *path*."""
    document = made()
    *parents, last = path
    del functools.reduce(lambda inner, name: inner[name], parents, document)[last]
    return document


BROKEN: Final = {
    "no subject": {**made(), "subject": []},
    "a subject without a digest": {**made(), "subject": [{"name": "a.whl"}]},
    "another type of statement": {**made(), "_type": "https://in-toto.io/Statement/v0.1"},
    "another predicate": {**made(), "predicateType": "https://slsa.dev/provenance/v0.2"},
    "an unknown field": {**made(), "predicate": {**made()["predicate"], "materials": []}},
    "no builder": without("predicate", "runDetails", "builder"),
    "no build type": without("predicate", "buildDefinition", "buildType"),
    "no parameters": without("predicate", "buildDefinition", "externalParameters"),
}


@pytest.mark.tools
def test_the_libraries_of_in_toto_accept_the_statement_and_refuse_each_broken_one() -> None:
    subprocess.run(["make", "-s", "build/release/tools/.installed"], cwd=ROOT, check=True, capture_output=True)
    complete = made(url="https://git.example/o/p", base=f"localhost/base@sha256:{'a' * 64}")
    done = subprocess.run(
        [ROOT / "build" / "release" / "tools" / "bin" / "python", "-c", CHECK],
        cwd=ROOT,
        input=json.dumps({name: text_of(document) for name, document in {"complete": complete, **BROKEN}.items()}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)) == set(BROKEN)
