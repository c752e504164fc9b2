"""What an application of type 2 proves itself with, made by `nmi.tokens.assertion` in a process of its own."""

import base64
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from nmi.node.commands import ProgramTimeoutError, run
from nmi.tokens.endpoints import ADFS, Application
from nmi.tokens.places import Places
from nmi.tokens.secrets import CredentialError, KeyStore
from podidentity.azure.errors import AzureError

PROGRAM: Final = Path(__file__).with_name("assertion.py")

AT_ONCE: Final = 2
"""Each takes a core and 40 MiB for a moment."""
OF_ONE_NAMESPACE: Final = 1
SECONDS: Final = 10.0
"""The program gives itself three of CPU time; the rest is for a busy node."""


class _Answer(msgspec.Struct):
    assertions: list[str] = []
    problem: str = ""


class Signer:
    """Makes client assertions. Owns nothing between two calls."""

    def __init__(self) -> None:
        self._places = Places(AT_ONCE, OF_ONE_NAMESPACE)

    async def assertions(self, application: Application, store: KeyStore, audiences: Sequence[str]) -> list[str]:
        """An assertion for each of *audiences*, which are token endpoints.

        Raises CredentialError where the file is at fault, AzureError where the program is. Cancelled, it takes the
        program along.
        """
        asked = {
            "pfx": base64.b64encode(store.pfx).decode(),
            "password": base64.b64encode(store.password).decode(),
            "client_id": application.client_id,
            "audiences": list(audiences),
            "adfs": application.tenants[0].lower() == ADFS,
        }
        async with self._places.one(application.namespace):
            try:
                finished = await run([sys.executable, "-I", str(PROGRAM)], given=json.dumps(asked), seconds=SECONDS)
            except ProgramTimeoutError:
                raise _unreadable(application, "took too long to read") from None
        if finished.code < 0:
            # By a signal: its own limit of CPU time. The file asks for more work than any honest one.
            raise _unreadable(application, "takes more work to read than NMI spends on it")
        try:
            answer = msgspec.json.decode(finished.stdout, type=_Answer)
        except msgspec.DecodeError:
            raise AzureError(
                f"the program that signs failed (exit code {finished.code}): is there memory left on this node?",
                code="signer_failed",
            ) from None
        if answer.problem:
            raise _unreadable(application, answer.problem)
        return answer.assertions


def _unreadable(application: Application, what: str) -> CredentialError:
    return CredentialError(f"`certificate` in Secret {application.secret} {what}", code="certificate_unfit")
