"""Manifests with old field names are rewritten in their text: only names change, for any field spelling."""

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from mic.startup.object_upgrade import with_current_names
from podidctl.migration.manifests import UnreadableError, rewrite
from podidentity.kube.compact_values import without_nulls
from podidentity.kube.decoding import decode_object
from podidentity.resources import BINDINGS, EXCEPTIONS, IDENTITIES, Kind

OLD = """\
# who pays
apiVersion: "aadpodidentity.k8s.io/v1"
kind: AzureIdentity
metadata:
  name: payments   # the name
  namespace: shop
  annotations: {ClientID: "a word of the user's"}
spec:
  type: 1
  TenantID: t
  'ClientID': c    # the application
  clientPassword: {Name: secret, "Namespace": shop}
  ADEndpoint: https://login.microsoftonline.com/
  colour: blue
"""
NEW = (
    OLD.replace("TenantID", "tenantID")
    .replace("'ClientID'", "'clientID'")
    .replace("{Name", "{name")
    .replace('"Namespace"', '"namespace"')
    .replace("ADEndpoint", "adEndpoint")
)
BINDING = """\
apiVersion: aadpodidentity.k8s.io/v1
kind: AzureIdentityBinding
metadata: {name: b}
spec:
"""


def test_only_field_names_change() -> None:
    done = rewrite(OLD)
    assert done.text == NEW
    (change,) = done.changes
    assert change.about == "AzureIdentity shop/payments"
    assert "spec.clientPassword.Name" in change.fields
    assert len(change.fields) == 5
    assert change.lost == ()


def test_correct_documents_and_foreign_ones_are_unchanged_byte_for_byte() -> None:
    other = "# not ours\napiVersion: v1\nkind: ConfigMap\ndata: {ClientID: x, Selector: y}\n"
    versioned = BINDING.replace("/v1", "/v2") + "  Selector: s\n"
    for text in (NEW, other, versioned, "", "---\n...\n", "just text\n", "- a\n- b\n"):
        assert rewrite(text).text == text
        assert rewrite(text).changes == ()


def test_each_document_of_a_file_is_handled_separately() -> None:
    config = "---\napiVersion: v1\nkind: ConfigMap\ndata: {ClientID: x}\n---\n"
    done = rewrite(OLD + config + BINDING + "  Selector: s # c\n")
    assert done.text == NEW + config + BINDING + "  selector: s # c\n"
    assert len(done.objects) == 2


def test_objects_of_a_list_are_rewritten_and_json_remains_json() -> None:
    text = """\
apiVersion: v1
kind: List
items:
- apiVersion: aadpodidentity.k8s.io/v1
  kind: AzureIdentityBinding
  metadata: {name: b}
  spec: {AzureIdentity: a, Selector: s} # kept
- apiVersion: v1
  kind: ConfigMap
  data: {Selector: s}
"""
    after = rewrite(text).text
    assert after == text.replace("{AzureIdentity: a, Selector: s}", "{azureIdentity: a, selector: s}")

    document = {"apiVersion": "aadpodidentity.k8s.io/v1", "kind": "AzureIdentityBinding", "spec": {"Selector": "s"}}
    assert json.loads(rewrite(json.dumps(document)).text)["spec"] == {"selector": "s"}


def test_a_field_in_both_spellings_keeps_the_present_one_and_reports_the_dropped_value() -> None:
    done = rewrite(BINDING + "  # a comment\n  AzureIdentity: old\n  azureIdentity: new\n  Selector: s\n")
    assert yaml.safe_load(done.text)["spec"] == {"azureIdentity": "new", "selector": "s"}
    (change,) = done.changes
    assert change.lost == ("comments", "spec.AzureIdentity, because spec.azureIdentity is also present")

    done = rewrite(BINDING + "  AzureIdentity: old\n  azureIdentity: null\n")
    assert yaml.safe_load(done.text)["spec"] == {"azureIdentity": "old"}
    assert done.changes[0].lost == ()


def test_only_a_document_that_needs_it_is_rewritten() -> None:
    both = BINDING + "  AzureIdentity: old\n  azureIdentity: new\n"
    done = rewrite(OLD + "---\n" + both + "---\n" + OLD)
    assert done.text.startswith(NEW + "---\n")
    assert done.text.endswith("---\n" + NEW)


def test_a_document_that_starts_on_its_separator_line_stays_a_document() -> None:
    head = "{apiVersion: aadpodidentity.k8s.io/v1, kind: AzureIdentityBinding, "
    text = "--- " + head + "spec: {Selector: a, selector: b}}\n--- " + head + "spec: {Selector: c}}\n"
    assert [document["spec"] for document in yaml.safe_load_all(rewrite(text).text)] == [
        {"selector": "b"},
        {"selector": "c"},
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "line 1: "),
        ("a: b\n  c: d\n", "line 2: "),
        ("kind: {{ .Values.kind }}\n  x: y\n", "line "),
        ("a: \x00", "special characters are not allowed"),
    ],
)
def test_invalid_yaml_is_reported_with_its_line(text: str, message: str) -> None:
    with pytest.raises(UnreadableError, match=message):
        rewrite(text)


WORDS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=8) | st.sampled_from(
    ["yes", "1e3", "~", "2001-01-01", "# no comment", "a: b", "'", '"', "null", "{", "*x", "&y", "|"]
)
FIELDS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "AzureIdentity": {
        "type": st.integers(0, 3),
        "resourceID": WORDS,
        "clientID": WORDS,
        "tenantID": WORDS,
        "auxiliaryTenantIDs": st.lists(WORDS, max_size=2),
        "adResourceID": WORDS,
        "adEndpoint": WORDS,
        "clientPassword": st.fixed_dictionaries({"name": WORDS, "namespace": WORDS}),
    },
    "AzureIdentityBinding": {"azureIdentity": WORDS, "selector": WORDS, "weight": st.integers(0, 9)},
    "AzurePodIdentityException": {"podLabels": st.dictionaries(WORDS, WORDS, max_size=2)},
}
SPELL: st.SearchStrategy[Callable[[str], str]] = st.sampled_from(
    [str, str.lower, lambda name: name[:1].upper() + name[1:], str.upper]
)


@st.composite
def documents(draw: st.DrawFn) -> tuple[Kind[Any], dict[str, Any]]:
    kind: Kind[Any] = draw(st.sampled_from([IDENTITIES, BINDINGS, EXCEPTIONS]))
    spec: dict[str, Any] = {}
    for name, values in FIELDS[kind.name].items():
        for _ in range(draw(st.integers(0, 2))):
            spec[draw(SPELL)(name)] = draw(st.none() | values)
    spec["unknown"] = draw(WORDS)
    return kind, {
        "apiVersion": kind.api_version,
        "kind": kind.name,
        "metadata": {"name": "n", "namespace": "ns", "annotations": {"ClientID": draw(WORDS)}},
        "spec": spec,
    }


@settings(deadline=None)
@given(st.lists(documents(), min_size=1, max_size=3), st.sampled_from([None, True, False]), st.booleans())
def test_a_rewritten_manifest_is_read_equally_and_has_no_old_field_name(
    objects: list[tuple[Kind[Any], dict[str, Any]]], flow: bool | None, listed: bool
) -> None:
    every: list[Any] = [document for _, document in objects]
    if listed:
        every = [{"apiVersion": "v1", "kind": "List", "items": every}]
    text = yaml.safe_dump_all(every, default_flow_style=flow, allow_unicode=True, sort_keys=False)
    done = rewrite(text)
    after = list(yaml.safe_load_all(done.text))
    after = after[0]["items"] if listed else after
    assert [without_nulls(document) for document in done.objects] == [without_nulls(document) for document in after]
    for (kind, before), now in zip(objects, after, strict=True):
        meant = decode_object(kind, msgspec.json.encode(before), old_field_names=True)
        assert decode_object(kind, msgspec.json.encode(now)) == meant
        assert without_nulls(with_current_names(kind, now) or now) == without_nulls(now)
        assert (now["metadata"], now["spec"]["unknown"]) == (before["metadata"], before["spec"]["unknown"])
    assert rewrite(done.text).text == done.text
