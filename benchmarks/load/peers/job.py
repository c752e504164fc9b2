"""The work of all Python peers for each request: a straightforward implementation of NMI's.

The pod at the peer's address, the Metadata header, the parameters, a cached token, its remaining time, one observation.
All parts that make NMI safe are missing (watches, holds, generations, limits, deadlines).
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from prometheus_client import Histogram

from benchmarks.load.addresses import addresses

TOKEN_PATH: Final = "/metadata/identity/oauth2/token"  # noqa: S105 - a path, no secret
CONTENT_TYPE: Final = "application/json"
MARGIN_SECONDS: Final = 300
"""A token with less remaining time is not returned."""


@dataclass(frozen=True, slots=True)
class Token:
    """A fetched token."""

    document: Mapping[str, str]
    """The response without its computed fields."""
    expires_on: int


@dataclass(frozen=True, slots=True)
class Pod:
    """The pod at an address, and its tokens."""

    client_id: str
    tokens: Mapping[str, Token]
    """By resource."""


@dataclass(frozen=True, slots=True)
class Arguments:
    """The input of each peer."""

    port: int
    job: "Job"


class Job:
    """Serves the pods at *pods* with the token of *answer*, which is a response of NMI's."""

    def __init__(self, pods: int, answer: bytes, clock: Callable[[], float] = time.time) -> None:
        document: dict[str, str] = json.loads(answer)
        token = Token(document, int(document["expires_on"]))
        self._pods = {address: Pod(document["client_id"], {document["resource"]: token}) for address in addresses(pods)}
        self._clock = clock
        self._durations = Histogram(
            "operations_duration_seconds", "Time from a whole request to its answer.", ["operation_type", "status_code"]
        )

    def answer(self, peer: str, metadata: str, query: Mapping[str, str]) -> tuple[int, bytes]:
        """Return status and body for a token request of *peer*; *metadata* is the header's value, or empty."""
        began = time.perf_counter()
        status, document = self._decide(peer, metadata, query)
        body = json.dumps(document, separators=(",", ":")).encode()
        self._durations.labels("token", status).observe(time.perf_counter() - began)
        return status, body

    def _decide(self, peer: str, metadata: str, query: Mapping[str, str]) -> tuple[int, Mapping[str, str]]:
        resource = query.get("resource")
        if metadata.lower() != "true" or not resource or "api-version" not in query:
            return 400, refusal("invalid_request", "the header Metadata, the resource or the api-version is missing")
        pod = self._pods.get(peer)
        if pod is None:
            return 404, refusal("not_found", "no pod is known at this address")
        if query.get("client_id", pod.client_id) != pod.client_id:
            return 404, refusal("not_found", "the pod has no such identity")
        token = pod.tokens.get(resource)
        now = int(self._clock())
        if token is None or token.expires_on - now < MARGIN_SECONDS:
            return 503, refusal("not_ready", "the token is being fetched")
        left = str(token.expires_on - now)
        return 200, {**token.document, "expires_in": left, "ext_expires_in": left}


def refusal(error: str, description: str) -> Mapping[str, str]:
    return {"error": error, "error_description": description}


def arguments(argv: list[str] | None = None) -> Arguments:
    """Parse the command line of a peer."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--pods", type=int, required=True)
    parser.add_argument("--answer", type=Path, required=True, help="file with the body of a response of NMI")
    given = parser.parse_args(argv)
    return Arguments(given.port, Job(given.pods, given.answer.read_bytes()))
