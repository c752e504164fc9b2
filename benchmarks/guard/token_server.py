"""A token server whose token service responds immediately. All code between socket and token service is NMI's."""

import time
from typing import Final

from _native.index import Index
from nmi.identity.pod_entry import PodEntry
from nmi.identity.request import TokenRequest
from nmi.refusal import Reason, Refusal
from nmi.server.metadata_cache import MetadataCache
from nmi.server.metrics import ServerMetrics
from nmi.server.policy import ServerPolicy
from nmi.server.responses import PlainResponse
from nmi.server.server import Server
from nmi.tokens.source import Issued
from tests.support.nmi.server.fakes import FakeProxy, FakeTokenService, grant, pod_entry
from tests.support.nmi.server.limits import limits_with

PODS: Final = 250
METADATA_BYTES: Final = 3000
TOKEN_BYTES: Final = 1800
TOKENLESS: Final = "https://absent.example/"
IDENTITYLESS: Final = "https://identityless.example/"
"""As TOKENLESS, but the refusal depends on the pod record alone."""


def pod_address(number: int) -> str:
    """Return the loopback address of one of the PODS."""
    return f"127.0.1.{number + 1}"


class Served:
    """Issuer for PODS pods. Each pod gets a token for each resource except TOKENLESS and IDENTITYLESS."""

    def __init__(self) -> None:
        self.index = Index()
        self.pods: dict[str, PodEntry] = {}
        for number in range(PODS):
            entry = pod_entry("shop", f"cart-{number}")
            address = pod_address(number)
            self.pods[address] = entry
            self.index.put(address, entry.record)
        self.token_service = FakeTokenService(self.answer)
        self.server = Server(
            limits=limits_with(memory_bytes=0),
            policy=ServerPolicy(),
            index=self.index,
            token_service=self.token_service,
            proxy=MetadataCache(
                FakeProxy(response=PlainResponse(200, b"m" * METADATA_BYTES)), 300, now_ns=time.monotonic_ns
            ),
            measures=ServerMetrics(),
        )

    def answer(self, request: TokenRequest) -> Issued | Refusal:
        if request.resource == TOKENLESS:
            return Refusal(Reason.NOTHING_ASSIGNED, "no identity for this")
        peer, _ = self.token_service.requests.pop()
        if request.resource == IDENTITYLESS:
            generation = self.pods[peer].record.generation
            return Refusal(Reason.NOTHING_ASSIGNED, "Identity not found", generation=generation)
        return grant(self.pods[peer].record, access_token="t" * TOKEN_BYTES, life=1_000_000)
