"""A namespace that is too full to be read in time delays only the verification of pods in that namespace."""

import asyncio
from typing import Any

import pytest

from nmi.identity import verification_reads as module
from nmi.identity.verification_reads import UnansweredError, VerificationReads
from podidentity.kube.errors import MALFORMED, NoResponse, ServerError


class Reader:
    """Lists of the namespace `full` never end; single objects cannot be read."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.away = False

    async def get(self, kind: Any, namespace: str, name: str) -> Any:
        raise ServerError(502, MALFORMED, "its answer cannot be read")

    async def list(self, kind: Any, namespace: str = "", **_selectors: str) -> list[Any]:
        self.asked.append(namespace)
        if self.away:
            raise NoResponse("away")
        if namespace == "full":
            await asyncio.Event().wait()
        return []


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> Reader:
    monkeypatch.setattr(module, "READ_SECONDS", 0.02)
    return Reader()


@pytest.mark.parametrize(
    ("first", "second"), [("bindings", "identities"), ("identities", "exceptions"), ("exceptions", "bindings")]
)
async def test_reads_of_other_namespaces_continue(reader: Reader, first: str, second: str) -> None:
    now = [0.0]
    reads = VerificationReads(reader, lambda: now[0])
    with pytest.raises(UnansweredError):
        await getattr(reads, first)("full")
    assert await reads.exceptions("other") == []
    assert await reads.bindings("other") == []
    assert await reads.assigned("nodename=n") == []
    with pytest.raises(UnansweredError, match="previous read"):
        await getattr(reads, second)("full")
    now[0] += module.UNANSWERED_SECONDS
    with pytest.raises(UnansweredError):
        await getattr(reads, second)("full")
    assert reader.asked == ["full", "other", "other", "", "full"]
    await reads.aclose()


async def test_an_unreachable_server_gets_no_more_reads(reader: Reader) -> None:
    reads = VerificationReads(reader, lambda: 0.0)
    reader.away = True
    with pytest.raises(UnansweredError):
        await reads.exceptions("other")
    with pytest.raises(UnansweredError, match="previous read"):
        await reads.bindings("third")
    await reads.aclose()


async def test_an_unreadable_pod_does_not_count_as_an_unreachable_server(reader: Reader) -> None:
    reads = VerificationReads(reader, lambda: 0.0)
    with pytest.raises(UnansweredError):
        await reads.pod("ns", "deep")
    assert await reads.exceptions("other") == []
    await reads.aclose()
