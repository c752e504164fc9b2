"""Outputs, stored reviews and differences of reviews; names cannot control a terminal or break the graph."""

import json
import re
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from podidctl.access.differences import DocumentError, compare, read_document
from podidctl.access.outputs import AccessOutput
from podidctl.access.review import review
from podidctl.access.schema import SCHEMA_VERSION, AccessReview, Scope
from podidctl.cli import main
from podidctl.facts.model import ReadFailure, readable
from podidentity.resources import GROUP
from tests.support.podidctl.access.generated_cluster import generated_cluster
from tests.support.podidctl.access.small_cluster import (
    KUBELET,
    attached,
    binding,
    bound,
    exception,
    identity,
    identity_id,
    on_azure,
    pod,
    policy_result,
    printed,
    rbac,
    reviewed,
    role,
    rule,
    small_cluster,
    with_pods,
)
from tests.support.work import Work

EXAMPLE = Path(__file__).with_name("review_example.json")
"""The stored example of the document: `-o json` of the small cluster, with one element of a list on each line."""
ESCAPES = "\x1b]0;owned\x07\x1b[2J\u202e\u2028\x00[red]"
QUOTES = 'a"];"b" -> "c\\'


def hostile(text: str) -> AccessReview:
    """Every name that the API server does not restrict has *text* in it; others too, for a server that is hostile."""
    named = identity(f"i{text}", client_id=text)
    bad = pod(f"p{text}", label=text, account=text, privileged=True, labels={"app": "old"})
    return reviewed(
        identities=(named, identity("typo", resource_id=text)),
        bindings=(binding("b", identity=f"i{text}", selector=text), binding(text, identity=text, selector=text)),
        exceptions=(exception(name=text, app="old"),),
        assigned=(),
        pods=(bad,),
        rbac=rbac(
            cluster=(role(text, rule("*", "*", "*")),),
            bindings=(bound(text, f"User {text}"), bound(text, f"Group {text}")),
        ),
        nmi=ReadFailure(text),
    )


@pytest.mark.parametrize("output", AccessOutput)
def test_no_output_contains_control_characters_of_names(output: AccessOutput) -> None:
    text = printed(hostile(ESCAPES), output)
    usual = set(printed(reviewed(), output)) - set(ESCAPES)  # D3 contains a tab
    bad = [character for character in text if not (character.isprintable() or character in usual)]
    assert bad == []


@pytest.mark.parametrize("text", ["[red]", r"\[red]", r"\[", "\\"])
def test_names_do_not_become_markup_of_the_console(text: str) -> None:
    table = printed(hostile(text), AccessOutput.TABLE)
    assert {f" shop/i{text} ", f" Group {text} "} <= set(re.findall(r"^ (?:shop/i|Group )\S+ ", table, re.MULTILINE))


@pytest.mark.parametrize("text", [QUOTES, ESCAPES, "\\", '"', "}\ndigraph evil {"])
def test_names_stay_inside_the_strings_of_the_graph(text: str) -> None:
    lines = printed(hostile(text), AccessOutput.DOT).splitlines()
    assert lines[0] == "digraph access {"
    assert lines[-1] == "}"
    string = r'"(?:[^"\\]|\\["\\])*"'
    attribute = rf"\w+=(?:\w+|{string})"
    attributes = rf"\[{attribute}(?:, {attribute})*\]"
    statement = re.compile(rf"  (?:rankdir=LR|{string}(?: -> {string})?(?: {attributes})?);")
    assert [line for line in lines[1:-1] if not statement.fullmatch(line)] == []


def example_of(review: str) -> str:
    """Return the example for a document."""
    fields = [f"{json.dumps(name)}: {_lines(value)}" for name, value in json.loads(review).items()]
    return "{\n" + ",\n".join(fields) + "\n}\n"


def _lines(value: object) -> str:
    if not isinstance(value, list) or not value:
        return json.dumps(value)
    return "[\n  " + ",\n  ".join(map(json.dumps, value)) + "\n]"


def test_json_is_the_stored_document_and_yaml_has_the_same_content() -> None:
    access_review = reviewed()
    assert example_of(printed(access_review, AccessOutput.JSON)) == EXAMPLE.read_text(), "write it with example_of"
    assert yaml.safe_load(printed(access_review, AccessOutput.YAML)) == yaml.safe_load(
        printed(access_review, AccessOutput.JSON)
    )
    read = read_document(EXAMPLE.read_bytes())
    assert read.schema_version == SCHEMA_VERSION
    assert read == reviewed()


def test_the_graph_connects_pods_bindings_identities_and_hosts() -> None:
    text = printed(reviewed(), AccessOutput.DOT)
    assert '"pod shop/report" -> "binding shop/reports" [label="usable", style=solid];' in text
    assert '"binding shop/reports" -> "identity shop/reports";' in text
    assert re.search(r'"pod ops/agent" -> "host [^"]*/pool" \[label="privileged"', text)
    assert re.search(r'"attached [^"]*/backup" \[[^]]*color=red', text)


def test_the_table_is_short_and_begins_with_the_reach_of_the_scope() -> None:
    table, wide = (printed(reviewed(), output) for output in (AccessOutput.TABLE, AccessOutput.WIDE))
    assert "kube-system/DaemonSet nmi (3 pods)" in table
    assert "kube-system/nmi-node-1" not in table
    assert "kube-system/nmi-node-1" in wide
    assert "and 1 subject of Kubernetes itself" in table
    assert "Group system:masters" in wide
    access_review = review(replace(generated_cluster(200, 40, 4), azure=None))
    assert "more" in printed(access_review, AccessOutput.TABLE)
    assert "and 30 more" not in printed(access_review, AccessOutput.WIDE)
    access_review = review(small_cluster(), Scope(kind="node", name="node-1"))
    text = printed(access_review, AccessOutput.TABLE)
    assert "within reach of an attacker in this node" in text
    assert "today: ops/legacy, shop/reports; on Azure only: kubelet" in text
    assert "by the credentials of NMI (kube-system/default): ops/legacy, shop/reports" in text


def test_what_could_not_be_read_is_unknown_and_not_none() -> None:
    failure = ReadFailure("not allowed: x")
    unread: dict[str, Any] = dict.fromkeys(
        ("identities", "bindings", "assigned", "exceptions", "pods", "nodes"), failure
    )
    access_review = reviewed(**unread, rbac=failure, nmi=failure, mic=failure, azure=None)
    text = printed(access_review, AccessOutput.TABLE)
    assert "unknown identities, unknown bindings, unknown pods, unknown nodes" in text
    assert "pods with an identity: unknown" in text
    assert "no AzureIdentity" not in text
    assert "no pod" not in text
    for part in ("pods", "nodes", "azureidentities.aadpodidentity.k8s.io", "rbac"):
        assert f"unknown: {part}: not allowed: x; needed: list on" in text


OPS_ONLY = review(small_cluster(), Scope(kind="namespace", name="ops"))


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the test's folder be the current one."""
    monkeypatch.chdir(tmp_path)


def store(name: str, access_review: AccessReview) -> None:
    Path(name).write_text(printed(access_review, AccessOutput.JSON))


def test_stored_reviews_are_printed_unchanged_and_compared(capsys: pytest.CaptureFixture[str]) -> None:
    store("a.json", reviewed())
    assert main(["access", "--review", "a.json", "-o", "json"]) == 0
    assert capsys.readouterr().out == Path("a.json").read_text()
    store("before.json", reviewed(bindings=()))
    store("after.json", reviewed())
    assert main(["access", "--diff", "before.json", "after.json", "-o", "json"]) == 3
    differences = json.loads(capsys.readouterr().out)["differences"]
    assert ("+", "binding shop/payments") in [(difference["sign"], difference["subject"]) for difference in differences]


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


def changes(**new: Any) -> list[tuple[str, str, str]]:
    differences = compare(reviewed(), reviewed(**new))
    assert differences.unknown == []
    return [(difference.sign, difference.subject, difference.says) for difference in differences.differences]


def test_equal_reviews_have_no_differences() -> None:
    assert changes() == []
    web, *others = with_pods()
    renamed = msgspec.structs.replace(
        web, metadata=msgspec.structs.replace(web.metadata, name="web-7d4b-zz", uid="another")
    )
    assert changes(pods=(renamed, *others)) == []
    later = review(replace(small_cluster(), now=small_cluster().now + timedelta(days=1)))
    differences = compare(reviewed(), later)
    assert (differences.differences, differences.before, differences.after) == (
        [],
        "2026-11-27T12:00:00Z",
        "2026-11-28T12:00:00Z",
    )


def test_gained_and_lost_identities_and_exceptions_are_reported() -> None:
    assert changes(pods=with_pods(pod("new", "ops", label="payments"))) == [
        ("+", "workload ops/Pod new", "can use identity shop/payments through binding shop/payments")
    ]
    assert changes(exceptions=(exception(app="old"),)) == [
        ("+", "exception shop/legacy", "exempts pods with one of the labels app=old")
    ]
    kept = (binding("reports"), binding("legacy", "ops"))
    differences = changes(bindings=kept, assigned=())
    assert ("-", "binding shop/payments", "gives shop/payments to the selector 'payments'") in differences
    assert (
        "-",
        "workload shop/Deployment web",
        "can use identity shop/payments through binding shop/payments",
    ) in differences


def test_host_access_attached_identities_and_subjects_are_compared() -> None:
    differences = changes(
        pods=with_pods(pod("bad", "ops", privileged=True)),
        azure=on_azure(vm=attached(identity_id("payments"), KUBELET), pool=attached(KUBELET)),
    )
    assert ("+", "workload ops/Pod bad", "reaches its node's identities by privileged") in differences
    assert [(sign, says.rpartition("/")[2]) for sign, subject, says in differences if subject.startswith("host ")] == [
        ("-", "backup attached (explained by nothing)"),
        ("-", "has a system-assigned identity"),
    ]
    more = rbac(
        cluster=(role("extra", rule("create", GROUP, "azureidentities")),), bindings=(bound("extra", "User eve"),)
    )
    assert ("+", "User eve", "may write identities (create) in all namespaces") in changes(rbac=more)
    other = (identity("payments", client_id="client-other"), *readable(small_cluster().identities)[1:])
    about = [says for _, subject, says in changes(identities=other) if subject == "identity shop/payments"]
    assert len(about) == 2
    assert "client id client-other" in about[0]


def test_unread_parts_of_either_review_are_named() -> None:
    unread = compare(reviewed(rbac=ReadFailure("no")), reviewed(azure=None))
    assert unread.unknown == ["azure (before: read, after: not read)", "rbac"]
    one = review(small_cluster(), Scope(kind="namespace", name="shop"))
    with pytest.raises(DocumentError, match="different scopes"):
        compare(one, reviewed())


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not an access review"),
        (b"{}", "schema version 0"),
        (b'{"schemaVersion": 2}', "schema version 2"),
        (b'{"schemaVersion": 1}', "not an access review .*missing required field"),
        (b"\xff", "not an access review"),
        (b"[" * 100_000, "not an access review"),
    ],
)
def test_another_file_is_rejected(data: bytes, says: str) -> None:
    with pytest.raises(DocumentError, match=says):
        read_document(data)


def work_of(pods: int) -> int:
    """Return the bytecodes of the review of a cluster of this size, its table, a policy and a comparison."""
    objects = generated_cluster(pods, pods // 5, pods // 10)
    with Work() as work:
        access_review = review(objects)
        printed(access_review, AccessOutput.TABLE)
        assert policy_result('rule: no-host-access, identities: ["*"]', access_review).is_violated
        assert policy_result("rule: blast-radius, of: pod, maxIdentities: 10", access_review).rules
        assert compare(access_review, access_review).differences == []
    return work.bytecodes


def test_the_work_of_a_review_is_in_proportion_to_the_cluster() -> None:
    assert work_of(200) < 3 * work_of(100), "a loop over all pairs takes four times as much"
