"""Fields that are ignored because of their spelling are reported once for each version of an object, within limits."""

import asyncio
import logging
from typing import Any

import pytest

from podidentity.kube import ignored_fields
from podidentity.kube.client import Client
from podidentity.kube.ignored_fields import OMISSION, IgnoredFields
from podidentity.kube.informer import Informer
from podidentity.kube.object_reports import EVENTS, GROUP_SHARE, LINES
from podidentity.resources import EXCEPTIONS, AzurePodIdentityException, BareMeta, Resource
from tests.podidentity.kube.recording import Recorder
from tests.podidentity.kube.scripted import ScriptedServer, page

FIELDS = ("spec.PodLabels",)


class Events:
    def __init__(self) -> None:
        self.recorded: list[tuple[str, str, str, str]] = []

    def record(self, regarding: Resource, kind: Any, type_: str, reason: str, message: str) -> None:
        self.recorded.append((regarding.metadata.name, kind.name, f"{type_} {reason}", message))


@pytest.fixture
def events() -> Events:
    return Events()


@pytest.fixture
def ignored(events: Events) -> IgnoredFields:
    made = IgnoredFields(lambda: 0.0)
    made.record_with(events.record)
    return made


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the objects of the lines about ignored fields."""
    return [vars(each)["resource"] for each in caplog.records if each.name == ignored_fields.__name__]


def meta(name: str, version: str = "1", namespace: str = "team") -> BareMeta:
    return BareMeta(name=name, namespace=namespace, uid=f"uid-{name}", resource_version=version)


def test_the_event_names_the_fields_and_the_remedy(ignored: IgnoredFields, events: Events) -> None:
    ignored.report(EXCEPTIONS, meta("a"), FIELDS)
    ((*about, message),) = events.recorded
    assert about == ["a", "AzurePodIdentityException", "Warning FieldsIgnored"]
    assert message == (
        "Ignored fields, spelled as before v1.6.0: spec.PodLabels; write them as kubectl explain shows them "
        "(podidctl migrate from-reference -f rewrites manifests)"
    )


def test_one_version_of_an_object_is_reported_once(
    ignored: IgnoredFields, events: Events, caplog: pytest.LogCaptureFixture
) -> None:
    for version in ("1", "1", "1", "2"):
        ignored.report(EXCEPTIONS, meta("a", version), FIELDS)
    assert len(events.recorded) == len(lines(caplog)) == 2


def test_a_namespace_with_many_such_objects_leaves_lines_and_events_to_others(
    ignored: IgnoredFields, events: Events, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(1000):
        ignored.report(EXCEPTIONS, meta(f"hostile-{number}", namespace="hostile"), FIELDS)
    assert len(events.recorded) == EVENTS.burst * GROUP_SHARE
    ignored.report(EXCEPTIONS, meta("other"), FIELDS)
    assert events.recorded[-1][0] == "other"
    assert len(lines(caplog)) == LINES.burst * GROUP_SHARE + 1
    assert lines(caplog)[-1] == "azurepodidentityexceptions team/other"
    assert [each.message for each in caplog.records].count(OMISSION) == 1


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
    assert lines(caplog) == ["azurepodidentityexceptions ns/listed", "azurepodidentityexceptions ns/watched"]


def exception(name_: str, version: str, *, name: str = "PodLabels") -> dict[str, Any]:
    metadata = {"name": name_, "namespace": "ns", "uid": name_, "resourceVersion": version}
    return {"metadata": metadata, "spec": {name: {"app": "x"}}}
