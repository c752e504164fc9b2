"""Refusals as Events on the pod: which ones, their text, and that they delay no response."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from unittest.mock import Mock

import pytest

from nmi.app import COMPONENT
from nmi.identity.request import TokenRequest
from nmi.pod_events import REMEMBERED_MAX, PodEvents
from nmi.refusal import Reason, Refusal
from nmi.server.decision_lines import REPORT_AGAIN_SECONDS
from nmi.server.decisions import Decisions, Subject
from nmi.server.request import Call
from podidentity.kube.events import EventRecorder
from podidentity.resources import PODS
from tests.support.memory_api import MemoryApi
from tests.support.nmi.server.fakes import TARGET, ServerUnderTest, pod_entry, refusing, request_bytes
from tests.support.virtual_time import now

REFUSAL = Refusal(Reason.NO_MATCHING_IDENTITY, "No.", "compare the label with the selector")


class RecordedEvents(list[tuple[str, str]]):
    """Replaces PodEvents.record."""

    def record(self, entry: object, refusal: Refusal) -> bool:
        assert entry is not None
        self.append((refusal.reason.value, refusal.sentence))
        return True


def recording_events(recorded: RecordedEvents, **options: Any) -> ServerUnderTest:
    return ServerUnderTest(decisions=Decisions(report=recorded.record, **options))


async def test_a_refusal_is_recorded_once_and_again_before_the_event_expires() -> None:
    recorded, now = RecordedEvents(), 0.0
    server_under_test = recording_events(recorded, clock=lambda: now)
    server_under_test.token_service.respond = refusing(Reason.NO_MATCHING_IDENTITY)
    for now in (0.0, REPORT_AGAIN_SECONDS - 1, REPORT_AGAIN_SECONDS, REPORT_AGAIN_SECONDS + 1):  # noqa: B007 - read by the clock
        await server_under_test.ask(request_bytes())

    assert recorded == [("no_matching_identity", "No.")] * 2


async def test_grants_sdk_probes_and_unknown_addresses_have_no_event() -> None:
    recorded = RecordedEvents()
    server_under_test = recording_events(recorded)
    await server_under_test.ask(request_bytes())
    await server_under_test.ask(request_bytes(headers=()))
    await server_under_test.ask(request_bytes("/metadata/versions"))
    server_under_test.index.remove(server_under_test.peer, server_under_test.entry.record)
    server_under_test.token_service.respond = refusing(Reason.UNKNOWN_ADDRESS)
    await server_under_test.ask(request_bytes())

    assert recorded == []


async def test_a_node_process_that_invents_pods_causes_no_events() -> None:
    recorded = RecordedEvents()
    server_under_test = ServerUnderTest(peer="127.0.0.1", decisions=Decisions(report=recorded.record))
    server_under_test.token_service.respond = refusing(Reason.NO_MATCHING_IDENTITY)
    await server_under_test.ask(request_bytes("/host/token/?resource=r", headers=("podns: shop", "podname: made-up")))

    assert len(server_under_test.token_service.requests) == 1
    assert recorded == []


@pytest.fixture
async def recorder(api: MemoryApi) -> AsyncIterator[EventRecorder]:
    async with api.client(f"{COMPONENT}/test") as client:
        made = EventRecorder(client, "nmi", "node-1", clock=now)
        sending = asyncio.create_task(made.run())
        yield made
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


@pytest.fixture
async def api() -> MemoryApi:
    return MemoryApi()


async def test_an_event_names_the_pod_by_uid_and_what_to_check(api: MemoryApi, recorder: EventRecorder) -> None:
    PodEvents(recorder).record(pod_entry("default"), REFUSAL)
    PodEvents(recorder).record(pod_entry("default"), Refusal(Reason.POLICY, "No.", "a\nb Bearer abcdefghijkl\x00"))
    PodEvents(recorder).record(pod_entry("default"), Refusal(Reason.FORWARDED, "No.", "remove the proxy"))
    for reason in (Reason.UPSTREAM_UNAVAILABLE, Reason.UPSTREAM_THROTTLED, Reason.OVERLOADED):
        PodEvents(recorder).record(pod_entry("default"), Refusal(reason, "No.", "it affects all pods"))
    await recorder.flushed()
    events = {event["reason"]: event for event in api.store.list("events", "default")}

    assert set(events) == {"IdentityNotAssigned", "TokenRefused", "RequestRefused"}
    event = events["IdentityNotAssigned"]
    assert (event["type"], event["message"], event["count"]) == ("Warning", REFUSAL.detail, 1)
    about = {"kind": PODS.name, "apiVersion": "v1", "namespace": "default", "name": "cart", "uid": "uid-cart"}
    assert about.items() <= event["involvedObject"].items()
    assert events["TokenRefused"]["message"] == "a b Bearer <redacted> "


async def test_an_api_server_that_rejects_events_affects_no_answer(api: MemoryApi, recorder: EventRecorder) -> None:
    api.cut()
    server_under_test = ServerUnderTest(decisions=Decisions(report=PodEvents(recorder, clock=now).record))
    server_under_test.token_service.respond = refusing(Reason.NO_MATCHING_IDENTITY)
    for n in range(50):
        reply = await server_under_test.ask(request_bytes(TARGET.replace("management", f"m{n}")))
        assert reply.status == 404
    await recorder.flushed()
    assert recorder.dropped == 1, "fifty audiences, one refusal"
    assert (await server_under_test.ask(request_bytes())).status == 404


def test_repeats_are_remembered_for_a_limited_number_of_pods() -> None:
    recorder = Mock(spec=EventRecorder)
    events = PodEvents(recorder, clock=lambda: 0.0)
    for number in (*range(REMEMBERED_MAX), 0, REMEMBERED_MAX, 0):
        events.record(pod_entry(name=f"pod-{number}"), REFUSAL)
    names = [call.args[0].metadata.name for call in recorder.record.call_args_list]
    assert len(events._recorded) == REMEMBERED_MAX
    assert names[REMEMBERED_MAX:] == [f"pod-{REMEMBERED_MAX}", "pod-0"], "the oldest was forgotten, and no other"


def test_another_cause_soon_after_the_first_is_reported_with_a_later_repeat() -> None:
    recorder, clock = Mock(spec=EventRecorder), [0.0]
    decisions = Decisions(report=PodEvents(recorder, clock=lambda: clock[0]).record, clock=lambda: clock[0])
    subject, request = Subject(Call("10.0.0.7", "request"), pod_entry()), TokenRequest("https://vault.azure.net")
    first, second = (Refusal(Reason.POLICY, "No.", detail, cause=detail) for detail in ("one cause", "another cause"))
    for clock[0], refusal in ((0.0, first), (5.0, second), (30.0, second), (70.0, second), (80.0, second)):
        decisions.refused(subject, "/token", 403, refusal, request)
    assert [call.args[4] for call in recorder.record.call_args_list] == ["one cause", "another cause"]
