"""The base of the emulators that issue tokens to clients with a proof: Entra ID, and the token proxy in front of it.

It records each request, and returns the refusals of both in Entra ID's form.
"""

import abc
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from aiohttp import web
from typing_extensions import override

from podidentity_sandbox.proofs import NotProvenError
from podidentity_sandbox.serving import FaultyService, json_response


@dataclass(slots=True)
class SignInCall:
    """One request, without its secret or assertion, and its response."""

    path: str
    client_id: str = ""
    status: int = 0
    """0 until the response is determined."""
    error: int = 0
    """The AADSTS number of a refusal; 0 if there is none."""


C = TypeVar("C", bound=SignInCall)


class RefusedError(Exception):
    """A request that Entra ID refuses with 400, or with *status*."""

    def __init__(self, error: str, number: int, sentence: str, *, status: int = 400) -> None:
        self.error = error
        self.number = number
        self.status = status
        super().__init__(sentence)


class SignInService(FaultyService, Generic[C]):
    """A service that records its calls. *clock* gives Unix seconds, for the bodies of refusals."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        super().__init__()
        self.calls: list[C] = []
        self._clock = clock

    @override
    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Record and answer one request."""
        call = self.new_call(request)
        self.calls.append(call)
        try:
            response = await self.answer(request, call)
        except RefusedError as refused:
            call.error = refused.number
            response = self.refusal(refused.status, refused.error, refused.number, str(refused))
        except NotProvenError as refused:
            call.error = refused.number
            response = self.refusal(401, "invalid_client", refused.number, str(refused))
        call.status = response.status
        return response

    @abc.abstractmethod
    def new_call(self, request: web.BaseRequest) -> C:
        """Return the record of a request."""

    @abc.abstractmethod
    async def answer(self, request: web.BaseRequest, call: C) -> web.Response:
        """Return the response to one request, and complete its record. Raise RefusedError and NotProvenError."""

    def refusal(self, status: int, error: str, number: int, sentence: str) -> web.Response:
        """Return Entra ID's form of a refusal."""
        trace, correlation = str(uuid.uuid4()), str(uuid.uuid4())
        moment = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(self._clock()))
        return json_response(
            {
                "error": error,
                "error_description": f"AADSTS{number}: {sentence} Trace ID: {trace} Correlation ID: {correlation} "
                f"Timestamp: {moment}",
                "error_codes": [number],
                "timestamp": moment,
                "trace_id": trace,
                "correlation_id": correlation,
            },
            status=status,
        )
