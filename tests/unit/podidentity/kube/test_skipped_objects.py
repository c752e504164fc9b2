"""Skipped objects and ignored fields are reported once for each version of an object, within limits, and counted.

Log lines, tracebacks and Events are bounded. Only the current name of a field counts, as for an admission policy,
unless old field names are read on demand.
"""

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podidentity.kube import ignored_fields
from podidentity.kube import skipped as skipped_objects
from podidentity.kube.client import Client
from podidentity.kube.decoding import (
    OLD_FIELDS_MAX,
    WHOLE_MAX,
    Malformed,
    TooDeep,
    TooLarge,
    TooLong,
    decode_event,
    decode_list,
    decode_object,
)
from podidentity.kube.ignored_fields import IgnoredFields
from podidentity.kube.informer import Informer
from podidentity.kube.object_reports import EVENTS, GROUP_SHARE, LINES, REMEMBERED_MAX
from podidentity.kube.skipped import SkippedObjects, reason_of
from podidentity.old_field_names import fields_by_name, fold, old_fields
from podidentity.resources import (
    ASSIGNED_IDENTITIES,
    BINDINGS,
    EXCEPTIONS,
    IDENTITIES,
    AzureIdentityBindingSpec,
    AzureIdentitySpec,
    AzurePodIdentityException,
    AzurePodIdentityExceptionSpec,
    BareMeta,
    Kind,
    Resource,
    Spec,
)
from tests.support.podidentity.kube.recording import Recorder
from tests.support.podidentity.kube.scripted import ScriptedServer, page

Report = Callable[[BareMeta], None]


class Events:
    def __init__(self) -> None:
        self.recorded: list[tuple[str, str, str, str]] = []

    def record(self, regarding: Resource, kind: Any, type_: str, reason: str, message: str) -> None:
        self.recorded.append((regarding.metadata.name, kind.name, f"{type_} {reason}", message))


@pytest.fixture
def events() -> Events:
    return Events()


@pytest.fixture
def clock() -> list[float]:
    return [0.0]


@pytest.fixture
def skipped(events: Events, clock: list[float]) -> SkippedObjects:
    made = SkippedObjects(lambda: clock[0])
    made.record_with(events.record)
    return made


@pytest.fixture
def ignored(events: Events, clock: list[float]) -> IgnoredFields:
    made = IgnoredFields(lambda: clock[0])
    made.record_with(events.record)
    return made


@pytest.fixture(params=["skipped", "ignored"])
def report(request: pytest.FixtureRequest, skipped: SkippedObjects, ignored: IgnoredFields) -> Report:
    """Reports an object that is skipped, or one with an ignored field."""
    if request.param == "skipped":
        return lambda about: skipped.report(EXCEPTIONS, about, TooLong("spec.podLabels is too large"))
    return lambda about: ignored.report(EXCEPTIONS, about, ("spec.PodLabels",))


def meta(name: str, version: str = "1", namespace: str = "team") -> BareMeta:
    return BareMeta(name=name, namespace=namespace, uid=f"uid-{name}", resource_version=version)


def test_the_event_names_kind_and_cause(skipped: SkippedObjects, events: Events) -> None:
    skipped.report(EXCEPTIONS, meta("a"), TooLarge("it has 9 bytes of JSON, and the limit is 8"))
    ((*about, message),) = events.recorded
    assert about == ["a", "AzurePodIdentityException", "Warning ObjectSkipped"]
    cause = "it has 9 bytes of JSON, and the limit is 8"
    assert message == f"This AzurePodIdentityException is ignored and treated as absent: {cause}"


def test_the_event_names_the_fields_and_the_remedy(ignored: IgnoredFields, events: Events) -> None:
    ignored.report(EXCEPTIONS, meta("a"), ("spec.PodLabels",))
    ((*about, message),) = events.recorded
    assert about == ["a", "AzurePodIdentityException", "Warning FieldsIgnored"]
    assert message == (
        "Ignored fields, spelled as before v1.6.0: spec.PodLabels; write them as kubectl explain shows them "
        "(podidctl migrate from-reference -f rewrites manifests)"
    )


def test_one_version_of_an_object_is_reported_once(
    report: Report, events: Events, caplog: pytest.LogCaptureFixture
) -> None:
    for version in ("1", "1", "1", "2"):
        report(meta("a", version))
    assert len(events.recorded) == len(caplog.records) == 2


def test_each_report_of_one_version_of_a_skipped_object_is_counted(skipped: SkippedObjects) -> None:
    for version in ("1", "1", "1", "2"):
        skipped.report(EXCEPTIONS, meta("a", version), Malformed("no"))
    assert skipped.counts == {("azurepodidentityexceptions", "unreadable"): 4}


def test_many_objects_are_reported_up_to_an_hourly_limit(
    skipped: SkippedObjects, events: Events, clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    number = REMEMBERED_MAX + 1000
    with caplog.at_level(logging.WARNING):
        for index in range(number):
            skipped.report(EXCEPTIONS, meta(str(index), namespace=f"team-{index % 8}"), Malformed("no"))
        assert len(events.recorded) == EVENTS.burst
        assert len(caplog.records) == LINES.burst + 1
        clock[0] += 3600
        for index in range(number):
            skipped.report(EXCEPTIONS, meta(f"later-{index}", namespace=f"team-{index % 8}"), Malformed("no"))
    assert len(events.recorded) == 2 * EVENTS.burst
    assert len(caplog.records) <= 2 * (LINES.burst + 1)
    assert skipped.counts == {("azurepodidentityexceptions", "unreadable"): 2 * number}
    assert len(skipped._reported._versions) == REMEMBERED_MAX


def test_a_namespace_with_many_such_objects_leaves_lines_and_events_to_others(
    report: Report, events: Events, clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(1000):
        report(meta(f"hostile-{number}", namespace="hostile"))
    assert len(events.recorded) == EVENTS.burst * GROUP_SHARE
    report(meta("other"))
    assert events.recorded[-1][0] == "other"
    lines = [vars(record)["resource"] for record in caplog.records if "resource" in vars(record)]
    assert lines[-1] == "azurepodidentityexceptions team/other"
    assert len(lines) == LINES.burst * GROUP_SHARE + 1
    (omission,) = [record.message for record in caplog.records if "resource" not in vars(record)]
    assert omission in {ignored_fields.OMISSION, skipped_objects.OMISSION}
    clock[0] += 3600
    for number in range(1000):
        report(meta(f"later-{number}", namespace="hostile"))
    assert len(events.recorded) == 2 * EVENTS.burst * GROUP_SHARE + 1


def test_the_traceback_of_one_kind_of_failure_is_logged_once(
    skipped: SkippedObjects, events: Events, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        for name in ("a", "b", "c"):
            try:
                raise KeyError("what was in it")  # noqa: TRY301
            except KeyError as error:
                skipped.report(EXCEPTIONS, meta(name), error)
    assert [record.exc_info is not None for record in caplog.records] == [True, False, False]
    assert "what was in it" not in events.recorded[0][3]


def test_an_object_without_a_name_has_no_event(skipped: SkippedObjects, events: Events) -> None:
    skipped.report(EXCEPTIONS, BareMeta(), Malformed("no"))
    assert not events.recorded
    assert sum(skipped.counts.values()) == 1


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (TooLarge(""), "size"),
        (TooDeep(""), "depth"),
        (TooLong(""), "limits"),
        (Malformed(""), "unreadable"),
        (RecursionError(), "handler"),
    ],
)
def test_each_error_has_its_skip_reason(error: Exception, reason: str) -> None:
    assert reason_of(error) == reason


async def test_an_informer_reports_objects_of_its_lists_and_watches(
    server: ScriptedServer, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    recorder: Recorder[AzurePodIdentityException] = Recorder()
    server.lists.append(page(exception("listed", "1"), exception("fine", "2", name="podLabels"), version="7"))
    with caplog.at_level(logging.WARNING, ignored_fields.__name__):
        task = asyncio.create_task(Informer(client, EXCEPTIONS, recorder, random=lambda: 0.0).run())
        (await server.watch()).send("ADDED", exception("watched", "8"))
        await recorder.received("+listed 1", "+fine 2", "+watched 8")
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    lines = [vars(record) for record in caplog.records if record.name == ignored_fields.__name__]
    assert [(line["resource"], line["reason"]) for line in lines] == [
        ("azurepodidentityexceptions ns/listed", "spec.PodLabels"),
        ("azurepodidentityexceptions ns/watched", "spec.PodLabels"),
    ]


def exception(name_: str, version: str, *, name: str = "PodLabels") -> dict[str, Any]:
    metadata = {"name": name_, "namespace": "ns", "uid": name_, "resourceVersion": version}
    return {"metadata": metadata, "spec": {name: {"app": "x"}}}


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
def test_an_object_with_both_names_means_its_current_one(names: tuple[str, str], padding: int) -> None:
    values = {"resourceID": "current", "ResourceID": "old"}
    data = stored({name: values[name] for name in names}, padding=padding)
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


def test_embedded_copies_count_with_their_current_names_only() -> None:
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
def test_a_spec_means_what_its_fields_under_current_names_mean(drawn: tuple[Kind[Any], dict[str, Any]]) -> None:
    kind, spec = drawn
    names = {field.present for field in fields_by_name(SPECS[kind.name]).values()}
    seen_by_a_policy = {name: value for name, value in spec.items() if name in names}
    assert read(kind, stored(spec))[0] == read(kind, stored(seen_by_a_policy))[0]
    noted = list(old_fields({"spec": spec}, kind.shape))
    assert bool(noted) == (fold({"spec": spec}, kind.shape) != {"spec": spec})


def specs(kind: Kind[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Return specs with fields of *kind* in any mixture of spellings."""
    text = {"type": 1, "weight": 2, "podLabels": {"app": "x"}, "auxiliaryTenantIDs": ["t"]}
    names = [field.present for field in fields_by_name(SPECS[kind.name]).values() if field.read is None]
    every = {
        written: text.get(name, f"value of {written}")
        for name in names
        for written in (name, name.lower(), name[:1].upper() + name[1:])
    }
    return st.lists(st.sampled_from(sorted(every)), unique=True).map(
        lambda chosen: {name: every[name] for name in chosen}
    )
