"""Requests: what must be answered with a token (`accepted`), and what never may be (`refused`).

FAST_REFUSALS names those that the fast lane may refuse. All are asked from 127.0.0.1, which makes a difference at
/host/token only. A request that was ever read wrongly is added to one of both tables.
"""

from dataclasses import dataclass, field

from tests.corpus import accepted, refused


@dataclass(frozen=True, slots=True)
class Case:
    """One request."""

    name: str
    data: bytes = field(repr=False)

    @property
    def fast(self) -> bool:
        """Whether the fast lane answers it as soon as an answer is ready."""
        return self.grants_fast or self.name in FAST_REFUSALS

    @property
    def grants_fast(self) -> bool:
        """Whether the fast lane answers it with a token."""
        return not self.name.startswith("general-") and not self.name[:1].isdigit()

    @property
    def status(self) -> int:
        """The status of its answer."""
        return int(self.name[:3]) if self.name[:3].isdigit() else 200


FAST_REFUSALS = frozenset(
    {
        *("400-no-metadata-header", "400-empty-query", "400-empty-resource", "400-no-query", "400-no-resource"),
        *("400-resource-name-capitalised", "404-attested", "404-getplatformmetadata"),
        *("404-getplatformmetadata-post", "404-getplatformmetadata-without-header", "404-identity-info"),
        "404-issuecredential-without-header",
        *("404-identity-info-delete", "404-loadbalancer", "404-metadata"),
        *("404-path-one-byte-longer", "404-root", "404-scheduledevents", "404-versions"),
        *("405-instance-options", "405-instance-post", "405-post", "405-put"),
        *("404-closing", "405-post-without-length"),
    }
)
"""Refused for their first line, for the missing header or for the missing resource alone."""
ACCEPTED = [Case(name, data) for name, data in accepted.REQUESTS.items()]
REFUSED = [Case(name, data) for name, data in refused.REQUESTS.items()]
EVERY = ACCEPTED + REFUSED
