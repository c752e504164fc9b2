"""`podidctl access` with stored reviews in place of the cluster, and files that it cannot use."""

import json
from pathlib import Path

import pytest

from podidctl.access.review import review
from podidctl.access.schema import AccessReview, Scope
from podidctl.cli import main
from tests.podidctl.access.small_cluster import document, reviewed, small_cluster

OPS_ONLY = review(small_cluster(), Scope(kind="namespace", name="ops"))


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the test's folder be the current one."""
    monkeypatch.chdir(tmp_path)


def store(name: str, found: AccessReview) -> None:
    Path(name).write_bytes(document(found))


def test_a_stored_review_is_printed_unchanged(capsys: pytest.CaptureFixture[str]) -> None:
    store("a.json", reviewed())
    assert main(["access", "--review", "a.json", "-o", "json"]) == 0
    assert capsys.readouterr().out == Path("a.json").read_text()


def test_two_stored_reviews_are_compared(capsys: pytest.CaptureFixture[str]) -> None:
    store("before.json", reviewed(bindings=()))
    store("after.json", reviewed())
    assert main(["access", "--diff", "before.json", "after.json", "-o", "json"]) == 3
    found = json.loads(capsys.readouterr().out)["differences"]
    assert ("+", "binding shop/payments") in [(each["sign"], each["subject"]) for each in found]


def test_a_policy_is_tested_on_a_stored_review_of_the_whole_cluster_only(capsys: pytest.CaptureFixture[str]) -> None:
    store("whole.json", reviewed())
    store("part.json", OPS_ONLY)
    Path("policy.yaml").write_text("version: 1\nrules: [{rule: identity-types, name: a, types: [3]}]")
    assert main(["access", "--policy", "policy.yaml", "--review", "whole.json"]) == 3
    assert capsys.readouterr().out.startswith("error: a: AzureIdentity ops/legacy has type 1")
    assert main(["access", "--policy", "policy.yaml", "--review", "part.json"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "is a review of namespace ops only, and a policy tests the whole cluster" in err


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        (("--policy", "wrong.yaml"), "wrong.yaml is not a policy: line 2: Invalid value 'nonsense'"),
        (("--policy", "none.yaml"), "cannot read none.yaml"),
        (("--review", "none.json"), "cannot read none.json"),
        (("--diff", "wrong.yaml"), "wrong.yaml: "),
    ],
)
def test_an_unusable_file_is_one_line(words: tuple[str, ...], cause: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("wrong.yaml").write_text("version: 1\nrules: [{rule: nonsense, name: a}]")
    assert main(["access", *words]) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert cause in err
