"""Identities that an operator names for a sandbox, as `NAME` or `NAME=SELECTOR`. No I/O."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from podidentity.exits import StartError
from podidentity_sandbox.azure import DEMO_IDENTITY

IDENTITIES_MAX: Final = 50
_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_SELECTOR: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True)
class GivenIdentity:
    """One identity: a user-assigned one, or with *principal* a service principal with a secret (type 1)."""

    name: str
    selector: str
    principal: bool = False


def parse(identities: Iterable[str], principals: Iterable[str]) -> tuple[GivenIdentity, ...]:
    """Return the identities that `NAME[=SELECTOR]` texts describe. Raise StartError."""
    found: dict[str, GivenIdentity] = {}
    texts = [*((text, False) for text in identities), *((text, True) for text in principals)]
    for text, principal in texts:
        name, equals, selector = text.partition("=")
        if not _NAME.fullmatch(name) or (equals and not _SELECTOR.fullmatch(selector)):
            raise StartError(
                f"{text[:80]!a} is not NAME or NAME=SELECTOR; use lower-case letters, digits and hyphens for the name, "
                "and a value of a Kubernetes label for the selector"
            )
        if name == DEMO_IDENTITY:
            raise StartError(f"the identity {DEMO_IDENTITY!r} belongs to the demo; use another name")
        if name in found:
            raise StartError(f"the identity {name!r} is named twice; use a different name for each identity")
        found[name] = GivenIdentity(name, selector or name, principal)
    if len(found) > IDENTITIES_MAX:
        raise StartError(f"{len(found)} identities are named; name at most {IDENTITIES_MAX}")
    return tuple(found.values())
