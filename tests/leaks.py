"""Whether anything secret that the sandbox made during this run of the tests stands in what was written during it.

What the sandbox's mint and directory hand out is noted as they do it; so is each program that the sandbox starts. At
the end of each test its captured output and the logs of those programs are read. A log is opened when its program
starts, so that it can be read after its folder is gone.
"""

import functools
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO

from podidentity_sandbox.directory import Directory, ServicePrincipal
from podidentity_sandbox.processes import Program
from podidentity_sandbox.tokens import TokenMint

ENOUGH = 32
"""Characters of a token's signature that are as good as all of it for finding it again."""
SHORTEST = 8
"""Secrets that tests choose to be shorter than this are found everywhere."""
_WORDS = re.compile(rf"[A-Za-z0-9_-]{{{ENOUGH},}}")


class Ledger:
    """Everything secret so far."""

    def __init__(self) -> None:
        self._signatures: set[str] = set()
        self._secrets: set[str] = set()
        self._logs: list[tuple[str, BinaryIO]] = []

    def note_token(self, token: str) -> None:
        """A JSON Web Token: of its parts, the signature is found by itself, and the claims by their end."""
        _, claims, signature = token.split(".")
        self._signatures.add(signature[:ENOUGH])
        self._secrets.add(claims[-ENOUGH:])

    def note_secret(self, secret: str) -> None:
        if len(secret) >= SHORTEST:
            self._secrets.add(secret)

    def found_in(self, text: str) -> str:
        """The first secret that stands in *text*, shortened; empty if none does."""
        for word in _WORDS.findall(text):
            if word[:ENOUGH] in self._signatures:
                return f"a token, signed {word[:6]}…"
        return next((f"{secret[:4]}…" for secret in self._secrets if secret in text), "")

    def found_in_logs(self) -> str:
        """Where a secret stands in what was written by the programs that were started since this was asked last."""
        logs, self._logs = self._logs, []
        found = ""
        for name, log in logs:
            with log:
                secret = self.found_in(log.read().decode(errors="replace"))
            found = found or (f"{secret} in the log of {name}" if secret else "")
        return found

    def found_in_sections(self, sections: Iterable[tuple[str, str]]) -> str:
        """Where a secret stands in captured output."""
        for title, text in sections:
            if secret := self.found_in(text):
                return f"{secret} in the {title.lower()}"
        return ""

    def listen(self, patched: Callable[[type, str, Any], None]) -> None:
        """Have the sandbox's own classes tell of what they make. *patched* replaces an attribute of a class."""
        mint, add_principal, start = TokenMint.mint, Directory.add_principal, Program.__init__

        @functools.wraps(mint)
        def minted(this: TokenMint, **claims: Any) -> str:
            token = mint(this, **claims)
            self.note_token(token)
            return token

        @functools.wraps(add_principal)
        def added(this: Directory, **options: Any) -> ServicePrincipal:
            principal = add_principal(this, **options)
            self.note_secret(principal.secret)
            return principal

        @functools.wraps(start)
        def started(this: Program, name: str, process: Any, log: Path) -> None:
            start(this, name, process, log)
            self._logs.append((name, log.open("rb")))

        patched(TokenMint, "mint", minted)
        patched(Directory, "add_principal", added)
        patched(Program, "__init__", started)
