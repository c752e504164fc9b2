"""Check that no log and no captured output of a test contains a secret that the sandbox created.

The ledger records each token of the sandbox's mint, each secret of its directory and each program that it starts. At
the end of each test it reads the captured output and the logs of those programs. It opens a log when the program
starts, so that it can read the log after the folder is deleted.
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
"""Characters of a token's signature that are enough to find it."""
SHORTEST = 8
"""Shorter secrets, which tests choose, also occur in other text and are not checked."""
_WORDS = re.compile(rf"[A-Za-z0-9_-]{{{ENOUGH},}}")


class Ledger:
    """Registry of the secrets that this process has created."""

    def __init__(self) -> None:
        self._signatures: set[str] = set()
        self._secrets: set[str] = set()
        self._logs: list[tuple[str, BinaryIO]] = []

    def note_token(self, token: str) -> None:
        """Record a JSON Web Token. Its signature and the end of its claims are each searched for."""
        _, claims, signature = token.split(".")
        self._signatures.add(signature[:ENOUGH])
        self._secrets.add(claims[-ENOUGH:])

    def note_secret(self, secret: str) -> None:
        if len(secret) >= SHORTEST:
            self._secrets.add(secret)

    def found_in(self, text: str) -> str:
        """Return the first secret in *text*, shortened; empty if there is none."""
        for word in _WORDS.findall(text):
            if word[:ENOUGH] in self._signatures:
                return f"a token, signed {word[:6]}…"
        return next((f"{secret[:4]}…" for secret in self._secrets if secret in text), "")

    def found_in_logs(self) -> str:
        """Return the location of a secret in the logs of programs started since the last call, or an empty text."""
        logs, self._logs = self._logs, []
        leak = ""
        for name, log in logs:
            with log:
                secret = self.found_in(log.read().decode(errors="replace"))
            leak = leak or (f"{secret} in the log of {name}" if secret else "")
        return leak

    def found_in_sections(self, sections: Iterable[tuple[str, str]]) -> str:
        """Return the location of a secret in captured output; empty if there is none."""
        for title, text in sections:
            if secret := self.found_in(text):
                return f"{secret} in the {title.lower()}"
        return ""

    def listen(self, patched: Callable[[type, str, Any], None]) -> None:
        """Record the secrets and programs that the sandbox's classes create. *patched* replaces a class attribute."""
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
