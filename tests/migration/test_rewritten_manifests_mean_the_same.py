"""For any field spelling, the programs read the rewritten manifest as they read the original one."""

from collections.abc import Callable
from typing import Any

import msgspec
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from mic.startup.spellings import respelled
from podidctl.migration.field_spellings import rewrite
from podidentity.kube.decoding import decode_object
from podidentity.resources import BINDINGS, EXCEPTIONS, IDENTITIES, Kind

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
    assert [without_nulls(each) for each in done.objects] == [without_nulls(each) for each in after]
    for (kind, before), now in zip(objects, after, strict=True):
        meant = decode_object(kind, msgspec.json.encode(before), old_field_names=True)
        assert decode_object(kind, msgspec.json.encode(now)) == meant
        assert without_nulls(respelled(kind, now) or now) == without_nulls(now)
        assert (now["metadata"], now["spec"]["unknown"]) == (before["metadata"], before["spec"]["unknown"])
    assert rewrite(done.text).text == done.text


def without_nulls(value: Any) -> Any:
    return {k: without_nulls(v) for k, v in value.items() if v is not None} if isinstance(value, dict) else value
