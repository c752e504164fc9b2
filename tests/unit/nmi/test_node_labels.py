"""`NodeLabels` with a scripted API server, in virtual time. Excluded: what the redirect does with the labels."""

import asyncio
import logging
from collections.abc import Mapping
from typing import cast

import pytest

from nmi.node_labels import AGAIN_MOST_SECONDS, FIRST_SECONDS, NodeLabels
from podidentity.kube.client import Client
from podidentity.kube.errors import AccessError, ApiError, Forbidden, NoResponse, NotFound, ServerError, Unauthorized
from podidentity.kube.first_contact import FirstContact
from podidentity.resources import NODES, Kind, Meta, Node
from podidentity.telemetry.log_limit import LogLimit
from tests.support.virtual_time import now

LABELS = {"a": "b"}
FORBIDDEN = Forbidden(403, "Forbidden", "nodes is forbidden")


class ApiServer:
    """The API server. It returns `responses` in order, the last one repeatedly."""

    def __init__(self, *responses: Mapping[str, str] | Exception) -> None:
        self.responses = list(responses)
        self.contact_seconds = 0.0
        self.reads: list[float] = []

    async def get(self, kind: Kind[Node], namespace: str, name: str) -> Node:
        assert (kind, namespace, name) == (NODES, "", "n1")
        self.reads.append(now())
        response = self.responses.pop(0) if len(self.responses) > 1 else self.responses[0]
        if isinstance(response, Exception):
            raise response
        return Node(metadata=Meta(name="n1", labels=dict(response)))

    async def made(self) -> None:
        await asyncio.sleep(self.contact_seconds)

    @property
    def contact(self) -> FirstContact:
        return cast("FirstContact", self)


def labels_of(api: ApiServer) -> NodeLabels:
    return NodeLabels(cast("Client", api), "n1", log_limit=LogLimit(clock=now))


async def test_without_a_response_the_first_labels_are_unknown_after_a_limited_time() -> None:
    api, begun = ApiServer(LABELS), now()
    api.contact_seconds = FIRST_SECONDS + 0.1
    assert await labels_of(api).first(api.contact) is None
    assert now() - begun == FIRST_SECONDS
    api.contact_seconds = FIRST_SECONDS - 0.1
    assert await labels_of(api).first(api.contact) == LABELS


@pytest.mark.parametrize(
    "error",
    [
        ServerError(500, "InternalError", "etcd"),
        Unauthorized(401, "Unauthorized", "expired"),
        NoResponse("reset"),
        AccessError("no token"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_a_failed_read_is_repeated_until_the_labels_are_known(
    error: ApiError | AccessError, caplog: pytest.LogCaptureFixture
) -> None:
    api = ApiServer(*[error] * 20, LABELS)
    assert await labels_of(api).read() == LABELS
    assert "could not be read, which decide whether it may have rules; NMI retries" in caplog.records[0].message
    pauses = [later - earlier for earlier, later in zip(api.reads, api.reads[1:], strict=False)]
    assert len(pauses) == 20
    assert min(pauses) >= 0.5
    assert max(pauses) <= 3.0


@pytest.mark.parametrize("error", [FORBIDDEN, NotFound(404, "NotFound", "nodes n1 not found")], ids=["403", "404"])
async def test_a_refused_read_permits_rules_now_and_is_repeated_later(
    error: ApiError, caplog: pytest.LogCaptureFixture
) -> None:
    """An API server that has just started may refuse the first read."""
    api = ApiServer(error, error, LABELS)
    node_labels = labels_of(api)
    with caplog.at_level(logging.WARNING):
        assert await node_labels.first(api.contact) == {}
        noted = await noted_in(node_labels, 2 * AGAIN_MOST_SECONDS, known=True)
        assert noted[:2] == [{}, LABELS]
    (record,) = caplog.records
    assert "grant NMI the verb get on nodes" in record.message


async def noted_in(node_labels: NodeLabels, seconds: float, *, known: bool) -> list[Mapping[str, str]]:
    noted: list[Mapping[str, str]] = []

    async def note(labels: Mapping[str, str]) -> None:
        noted.append(labels)

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(seconds):
            await node_labels.follow(note, known=known)
    return noted


async def test_unknown_labels_are_passed_on_as_soon_as_the_api_server_responds() -> None:
    outage = ServerError(503, "ServiceUnavailable", "")
    assert await noted_in(labels_of(ApiServer(outage, outage, LABELS)), 3.5, known=False) == [LABELS]


async def test_a_label_that_is_set_later_is_passed_on_within_about_a_minute() -> None:
    api = ApiServer({})
    node_labels = labels_of(api)

    async def set_label() -> None:
        await asyncio.sleep(1000.0)
        api.responses = [LABELS]

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(set_label())
        noted = await noted_in(node_labels, 1000.0 + AGAIN_MOST_SECONDS + 0.1, known=True)
    assert noted[-1] == LABELS
    assert noted[0] == {}
    pauses = [later - earlier for earlier, later in zip(api.reads, api.reads[1:], strict=False)]
    assert all(AGAIN_MOST_SECONDS / 2 <= pause <= AGAIN_MOST_SECONDS for pause in pauses[5:]), "few requests in the end"


async def test_a_later_read_that_fails_changes_nothing_and_is_not_repeated_sooner() -> None:
    api = ApiServer(ServerError(503, "ServiceUnavailable", ""))
    assert await noted_in(labels_of(api), 10 * AGAIN_MOST_SECONDS, known=True) == []
    assert len(api.reads) < 30
