"""One whole request whose syntax has passed every check."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Request:
    """A request. Immutable; only its framing has been interpreted."""

    method: str
    target: str
    """As sent: visible ASCII without "#"."""
    fields: tuple[tuple[str, str], ...] = field(repr=False)
    """Lower-case names and values without surrounding white space, Latin-1, in the order sent."""
    http_1_0: bool
    keep_alive: bool
    """Whether the client expects another answer on this connection."""
    body: bytes = field(default=b"", repr=False)

    def values(self, name: str) -> tuple[str, ...]:
        """Return every value of the field *name* (lower case) separately."""
        return tuple(value for each, value in self.fields if each == name)
