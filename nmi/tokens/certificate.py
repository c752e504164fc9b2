"""Client assertions of applications of type 2, signed by the program `nmi.tokens.assertion` in a separate process."""

import base64
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from nmi.subprocesses import ProgramTimeoutError, run
from nmi.tokens.endpoints import ADFS, Application
from nmi.tokens.fair_queue import Charged, GroupLimiter
from nmi.tokens.secrets import CredentialError, KeyStore
from podidentity.azure.errors import AzureError

PROGRAM: Final = Path(__file__).with_name("assertion.py")

CONCURRENT: Final = 2
"""Each process uses a core and 40 MiB for a moment."""
PER_NAMESPACE: Final = 1
SECONDS: Final = 10.0
"""The timeout of the process. It limits its CPU time to three seconds; the rest is for a busy node."""


class _SignerOutput(msgspec.Struct):
    assertions: list[str] = []
    problem: str = ""


class Signer:
    """Creator of client assertions. It stores nothing between two calls."""

    def __init__(self) -> None:
        self._limiter = GroupLimiter(CONCURRENT, PER_NAMESPACE)

    async def assertions(
        self, application: Application, store: KeyStore, audiences: Sequence[str], charged: Charged
    ) -> list[str]:
        """Return an assertion for each of *audiences*, which are token endpoints, on behalf of *charged*.

        Raise CredentialError if the file is not usable, AzureError if the program fails. Cancellation kills the
        program.
        """
        request = {
            "pfx": base64.b64encode(store.pfx).decode(),
            "password": base64.b64encode(store.password).decode(),
            "client_id": application.client_id,
            "audiences": list(audiences),
            "adfs": application.tenants[0].lower() == ADFS,
        }
        async with self._limiter.acquire(application.namespace, charged):
            try:
                finished = await run([sys.executable, "-I", str(PROGRAM)], given=json.dumps(request), seconds=SECONDS)
            except ProgramTimeoutError:
                raise _unreadable(application, "took too long to read") from None
        if finished.code < 0:
            # A signal: the limit of CPU time. The file requires more work than any legitimate one.
            raise _unreadable(application, "requires more CPU time than NMI allows")
        try:
            answer = msgspec.json.decode(finished.stdout, type=_SignerOutput)
        except msgspec.DecodeError:
            raise AzureError(
                f"the signing program failed (exit code {finished.code}); check the free memory of this node",
                code="signer_failed",
            ) from None
        if answer.problem:
            raise _unreadable(application, answer.problem)
        return answer.assertions


def _unreadable(application: Application, what: str) -> CredentialError:
    return CredentialError(f"`certificate` in Secret {application.secret} {what}", code="certificate_unfit")
