"""Only the current name of a field counts, as for an admission policy, unless old field names are read on demand."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podidentity.kube.decoding import OLD_FIELDS_MAX, WHOLE_MAX, decode_event, decode_list, decode_object
from podidentity.old_field_names import fold, old_fields, spellings
from podidentity.resources import (
    ASSIGNED_IDENTITIES,
    BINDINGS,
    EXCEPTIONS,
    IDENTITIES,
    AzureIdentityBindingSpec,
    AzureIdentitySpec,
    AzurePodIdentityExceptionSpec,
    BareMeta,
    Kind,
    Spec,
)

Noted = list[tuple[str, tuple[str, ...]]]


def stored(spec: dict[str, Any], *, padding: int = 0) -> bytes:
    return json.dumps({"metadata": {"name": "a", "namespace": "ns"}, "spec": spec, "unread": "x" * padding}).encode()


def read(kind: Kind[Any], data: bytes, *, old_field_names: bool = False) -> tuple[Any, Noted]:
    noted: Noted = []

    def note(meta: BareMeta, fields: tuple[str, ...]) -> None:
        noted.append((f"{meta.namespace}/{meta.name}", fields))

    return decode_object(kind, data, old_field_names=old_field_names, note=note).spec, noted


@pytest.mark.parametrize("padding", [0, WHOLE_MAX], ids=["small", "large"])
@pytest.mark.parametrize("name", ["ResourceID", "resourceid", "RESOURCEID", "resourceId"])
def test_an_old_field_name_alone_is_ignored_and_noted(name: str, padding: int) -> None:
    spec, noted = read(IDENTITIES, stored({name: "r", "clientID": "c"}, padding=padding))
    assert (spec.resource_id, spec.client_id) == ("", "c")
    assert noted == [("ns/a", (f"spec.{name}",))]


@pytest.mark.parametrize("padding", [0, WHOLE_MAX], ids=["small", "large"])
@pytest.mark.parametrize("names", [("resourceID", "ResourceID"), ("ResourceID", "resourceID")])
def test_an_object_with_both_spellings_means_its_current_one(names: tuple[str, str], padding: int) -> None:
    values = {"resourceID": "current", "ResourceID": "old"}
    data = stored({each: values[each] for each in names}, padding=padding)
    assert read(IDENTITIES, data) == (AzureIdentitySpec(resource_id="current"), [("ns/a", ("spec.ResourceID",))])
    assert read(IDENTITIES, data, old_field_names=True) == (AzureIdentitySpec(resource_id="current"), [])


@pytest.mark.parametrize("current", [None, ""])
def test_an_empty_current_field_is_not_filled_from_an_old_field_name(current: str | None) -> None:
    spec, _ = read(IDENTITIES, stored({"resourceID": current, "ResourceID": "r"}))
    assert spec.resource_id == ""


@pytest.mark.parametrize(
    ("kind", "spec", "fields"),
    [
        (IDENTITIES, {"type": 1, "clientPassword": {"Name": "n", "namespace": "ns"}}, ("spec.clientPassword.Name",)),
        (IDENTITIES, {"Type": 1, "ClientPassword": {"Name": "n"}}, ("spec.Type", "spec.ClientPassword")),
        (IDENTITIES, {"Replicas": 1, "metadata": {"Name": "n"}}, ("spec.Replicas",)),
        (BINDINGS, {"AzureIdentity": "i", "Selector": "s"}, ("spec.AzureIdentity", "spec.Selector")),
        (EXCEPTIONS, {"PodLabels": {"app": "x"}}, ("spec.PodLabels",)),
        (ASSIGNED_IDENTITIES, {"Pod": "p", "pod": "q"}, ("spec.Pod",)),
    ],
)
def test_each_kind_names_the_fields_that_it_ignores(
    kind: Kind[Any], spec: dict[str, Any], fields: tuple[str, ...]
) -> None:
    assert read(kind, stored(spec))[1] == [("ns/a", fields)]
    assert read(kind, stored(spec), old_field_names=True)[1] == []


@pytest.mark.parametrize(
    ("kind", "spec"),
    [
        (IDENTITIES, {"type": 0, "resourceID": "r", "clientID": "c", "clientPassword": {"name": "n"}}),
        (IDENTITIES, {"ResourceID": None, "Unknown": 1, "Selector": "no field of this kind"}),
        (BINDINGS, {"azureIdentity": "i", "selector": "s", "metadata": {"Name": "n"}}),
        (EXCEPTIONS, {"podLabels": {"App": "x", "PodLabels": "y"}}),
    ],
)
def test_current_and_unknown_fields_and_nulls_are_not_noted(kind: Kind[Any], spec: dict[str, Any]) -> None:
    assert read(kind, stored(spec))[1] == []


def test_embedded_copies_count_in_their_current_spelling_only() -> None:
    """Also where another object contains the same bytes."""
    identity = {"metadata": {"name": "i"}, "spec": {"ResourceID": "r", "clientID": "c"}}
    data = stored({"azureIdentityRef": identity, "pod": "p"})
    for _ in range(2):
        spec = decode_object(ASSIGNED_IDENTITIES, data).spec.azure_identity_ref.spec
        assert (spec.resource_id, spec.client_id) == ("", "c")
        with_old = decode_object(ASSIGNED_IDENTITIES, data, old_field_names=True).spec.azure_identity_ref.spec
        assert with_old.resource_id == "r"


def test_a_list_of_assigned_identities_is_not_decoded_together_if_old_field_names_are_read() -> None:
    data = (
        b'{"metadata":{"resourceVersion":"1"},"items":[%s]}'
        % json.dumps({"metadata": {"name": "a"}, "spec": {"pod": "p"}}).encode()
    )
    assert len(decode_list(ASSIGNED_IDENTITIES, data).objects) == 1
    assert len(decode_list(ASSIGNED_IDENTITIES, data, old_field_names=True).items) == 1


def test_an_event_is_read_like_an_object() -> None:
    line = b'{"type":"ADDED","object":%s}' % stored({"Selector": "s"})
    noted: list[tuple[str, ...]] = []
    event = decode_event(BINDINGS, line, note=lambda _meta, fields: noted.append(fields))
    assert event.object is not None
    assert (event.object.spec.selector, noted) == ("", [("spec.Selector",)])
    with_old = decode_event(BINDINGS, line, old_field_names=True)
    assert with_old.object is not None
    assert with_old.object.spec.selector == "s"


def test_a_deleted_object_has_no_ignored_fields_to_correct() -> None:
    line = b'{"type":"DELETED","object":%s}' % stored({"Selector": "s"})
    noted: list[tuple[str, ...]] = []
    event = decode_event(BINDINGS, line, note=lambda _meta, fields: noted.append(fields))
    assert event.object is not None
    assert noted == []


def test_few_of_many_ignored_fields_are_named() -> None:
    name = "resourceid"
    spec = {f"{name[:number].upper()}{name[number:]}": "x" for number in range(len(name) + 1)}
    _, noted = read(IDENTITIES, stored(spec))
    assert len(noted[0][1]) == OLD_FIELDS_MAX


KINDS = st.sampled_from([IDENTITIES, BINDINGS, EXCEPTIONS])
SPECS: dict[str, type[Spec]] = {
    IDENTITIES.name: AzureIdentitySpec,
    BINDINGS.name: AzureIdentityBindingSpec,
    EXCEPTIONS.name: AzurePodIdentityExceptionSpec,
}


@given(KINDS.flatmap(lambda kind: st.tuples(st.just(kind), specs(kind))))
def test_a_spec_means_what_its_fields_in_the_current_spelling_mean(drawn: tuple[Kind[Any], dict[str, Any]]) -> None:
    kind, spec = drawn
    known = {field.present for field in spellings(SPECS[kind.name]).values()}
    seen_by_a_policy = {name: value for name, value in spec.items() if name in known}
    assert read(kind, stored(spec))[0] == read(kind, stored(seen_by_a_policy))[0]
    noted = list(old_fields({"spec": spec}, kind.shape))
    assert bool(noted) == (fold({"spec": spec}, kind.shape) != {"spec": spec})


def specs(kind: Kind[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Return specs with fields of *kind* in any mixture of spellings."""
    text = {"type": 1, "weight": 2, "podLabels": {"app": "x"}, "auxiliaryTenantIDs": ["t"]}
    names = [field.present for field in spellings(SPECS[kind.name]).values() if field.read is None]
    every = {
        spelling: text.get(name, f"value of {spelling}")
        for name in names
        for spelling in (name, name.lower(), name[:1].upper() + name[1:])
    }
    return st.lists(st.sampled_from(sorted(every)), unique=True).map(
        lambda chosen: {name: every[name] for name in chosen}
    )
