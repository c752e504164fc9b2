"""One whole request, once its bytes have passed every check of form."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Request:
    """Immutable; nothing in it has been interpreted but what frames it."""

    method: str
    target: str
    """As sent: visible ASCII without "#"."""
    fields: tuple[tuple[str, str], ...] = field(repr=False)
    """Names lower-cased, values without the white space around them, Latin-1; in the order sent."""
    http_1_0: bool
    keep_alive: bool
    """Whether the client will read another answer on this connection."""
    body: bytes = field(default=b"", repr=False)

    def values(self, name: str) -> tuple[str, ...]:
        """Every value of the field *name* (lower-case), unjoined."""
        return tuple(value for each, value in self.fields if each == name)
