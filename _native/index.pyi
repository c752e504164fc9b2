from typing import final

from _native.answers import ReadyAnswer

READY_ANSWERS_MAX: int

@final
class PodRecord:
    """One pod as the data plane knows it. Owns its ready answers: READY_ANSWERS_MAX at most, the least used goes."""

    def __init__(self, owner: object) -> None: ...
    @property
    def owner(self) -> object: ...
    @property
    def generation(self) -> int: ...
    suspended: bool
    """While true no ready answer is served: each request goes the general way."""
    def invalidate(self) -> int:
        """Drop every ready answer and begin a new generation; returns it."""
    def admit(
        self,
        generation: int,
        *,
        resource: bytes,
        selector_kind: int,
        selector_value: bytes,
        xms_cc: bytes,
        answer: ReadyAnswer,
    ) -> bool:
        """Keep *answer* for such requests (selector_value is compared lower-cased), replacing the one before it.

        False, and nothing kept, if the record's generation is no longer *generation* or the key is too long.
        """
    def find(
        self, resource: bytes, selector_kind: int, selector_value: bytes, xms_cc: bytes, now_ns: int
    ) -> ReadyAnswer | None:
        """The answer kept for such requests, None if there is none, it is not fresh, or the record is suspended."""
    __pyx_vtable__: object
    """How other compiled rooms call it."""

@final
class Index:
    """Address to pod record. IPv4 in C; an IPv6 address is kept too, though no redirected request comes from one."""

    def __init__(self) -> None: ...
    suspended: bool
    """While true no ready answer of any record is served (the watch is silent past its deadline)."""
    def put(self, address: str, record: PodRecord) -> None:
        """Raises ValueError if *address* is no IP address."""
    def remove(self, address: str, record: PodRecord) -> bool:
        """Take *address* away if it is *record*'s; whether it was."""
    def get(self, address: str) -> PodRecord | None: ...
    def __len__(self) -> int: ...
    __pyx_vtable__: object
    """How other compiled rooms call it."""
