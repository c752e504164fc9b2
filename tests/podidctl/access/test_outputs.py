"""Tables, documents and the graph; names that tenants choose cannot control a terminal or break the graph."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from podidctl.access.differences import read_document
from podidctl.access.outputs import AccessOutput
from podidctl.access.review import review
from podidctl.access.schema import SCHEMA_VERSION, AccessReview, Scope
from podidctl.diagnosis.input import ReadFailure
from tests.podidctl.access.generated_cluster import generated_cluster
from tests.podidctl.access.small_cluster import (
    binding,
    bound,
    exception,
    identity,
    pod,
    printed,
    rbac,
    reviewed,
    role,
    rule,
    small_cluster,
)

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
    bad = [each for each in text if not (each.isprintable() or each in usual)]
    assert bad == []


def test_names_do_not_become_markup_of_the_console() -> None:
    assert "[red]" in printed(hostile("[red]"), AccessOutput.TABLE)


@pytest.mark.parametrize("text", [QUOTES, ESCAPES, "\\", '"', "}\ndigraph evil {"])
def test_names_stay_inside_the_strings_of_the_graph(text: str) -> None:
    lines = printed(hostile(text), AccessOutput.DOT).splitlines()
    assert lines[0] == "digraph access {"
    assert lines[-1] == "}"
    string = r'"(?:[^"\\]|\\["\\])*"'
    attribute = rf"\w+=(?:\w+|{string})"
    attributes = rf"\[{attribute}(?:, {attribute})*\]"
    statement = re.compile(rf"  (?:rankdir=LR|{string}(?: -> {string})?(?: {attributes})?);")
    assert [each for each in lines[1:-1] if not statement.fullmatch(each)] == []


def example_of(review: str) -> str:
    """Return the example for a document."""
    fields = [f"{json.dumps(name)}: {_lines(value)}" for name, value in json.loads(review).items()]
    return "{\n" + ",\n".join(fields) + "\n}\n"


def _lines(value: object) -> str:
    if not isinstance(value, list) or not value:
        return json.dumps(value)
    return "[\n  " + ",\n  ".join(map(json.dumps, value)) + "\n]"


def test_json_is_the_stored_document_and_yaml_has_the_same_content() -> None:
    found = reviewed()
    assert example_of(printed(found, AccessOutput.JSON)) == EXAMPLE.read_text(), "write it with example_of"
    assert yaml.safe_load(printed(found, AccessOutput.YAML)) == yaml.safe_load(printed(found, AccessOutput.JSON))


def test_the_document_can_be_read_again() -> None:
    read = read_document(EXAMPLE.read_bytes())
    assert read.schema_version == SCHEMA_VERSION
    assert read == reviewed()


def test_the_graph_connects_pods_bindings_identities_and_hosts() -> None:
    text = printed(reviewed(), AccessOutput.DOT)
    assert '"pod shop/report" -> "binding shop/reports" [label="usable", style=solid];' in text
    assert '"binding shop/reports" -> "identity shop/reports";' in text
    assert re.search(r'"pod ops/agent" -> "host [^"]*/pool" \[label="privileged"', text)
    assert re.search(r'"attached [^"]*/backup" \[[^]]*color=red', text)


def test_the_table_shows_one_row_per_workload_and_wide_one_per_pod() -> None:
    table, wide = (printed(reviewed(), each) for each in (AccessOutput.TABLE, AccessOutput.WIDE))
    assert "kube-system/DaemonSet nmi (3 pods)" in table
    assert "kube-system/nmi-node-1" not in table
    assert "kube-system/nmi-node-1" in wide
    assert "and 1 subject of Kubernetes itself" in table
    assert "Group system:masters" in wide


def test_what_could_not_be_read_is_unknown_and_not_none() -> None:
    why = ReadFailure("not allowed: x")
    unread: dict[str, Any] = dict.fromkeys(("identities", "bindings", "assigned", "exceptions", "pods", "nodes"), why)
    found = reviewed(**unread, rbac=why, nmi=why, mic=why, azure=None)
    text = printed(found, AccessOutput.TABLE)
    assert "unknown identities, unknown bindings, unknown pods, unknown nodes" in text
    assert "pods with an identity: unknown" in text
    assert "no AzureIdentity" not in text
    assert "no pod" not in text
    for part in ("pods", "nodes", "azureidentities.aadpodidentity.k8s.io", "rbac"):
        assert f"unknown: {part}: not allowed: x; needed: list on" in text


def test_the_blast_radius_of_the_scope_comes_first() -> None:
    found = review(small_cluster(), Scope(kind="node", name="node-1"))
    text = printed(found, AccessOutput.TABLE)
    assert "within reach of an attacker in this node" in text
    assert "today: ops/legacy, shop/reports; on Azure only: kubelet" in text
    assert "by the credentials of NMI (kube-system/default): ops/legacy, shop/reports" in text


def test_a_long_list_of_names_is_cut_in_the_table_only() -> None:
    found = review(replace(generated_cluster(200, 40, 4), azure=None))
    assert "more" in printed(found, AccessOutput.TABLE)
    assert "and 30 more" not in printed(found, AccessOutput.WIDE)
