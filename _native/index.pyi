from typing import final

from _native.ready_responses import ReadyResponse, SharedResponse

METADATA_RESPONSES_MAX: int
READY_RESPONSES_MAX: int
UNKNOWN_ADDRESSES_MAX: int

@final
class PodRecord:
    """The data plane's record of one pod. It owns up to READY_RESPONSES_MAX ready responses (LRU)."""

    def __init__(self, owner: object) -> None: ...
    @property
    def owner(self) -> object: ...
    @property
    def generation(self) -> int: ...
    suspended: bool
    """While true, no ready response is served: every request goes to the general lane."""
    def invalidate(self) -> int:
        """Drop every ready response and start a new generation. Return its number."""
    def admit(
        self,
        generation: int,
        *,
        resource: bytes,
        selector_kind: int,
        selector_value: bytes,
        xms_cc: bytes,
        response: ReadyResponse,
    ) -> bool:
        """Store *response* for requests with this key, in place of an earlier one. selector_value ignores letter case.

        Return False without storing it if the record's generation is not *generation* or the key is too long.
        """
    def admit_refusal(self, generation: int, kind: int, response: ReadyResponse) -> bool:
        """Store *response* for requests of *kind* (nmi.server.ready_refusals.RequestKind), replacing an earlier one.

        Return False without storing it if the record's generation is not *generation*. Raise ValueError for a number
        that is no kind.
        """
    def admit_metadata(self, generation: int, target: bytes, response: SharedResponse) -> bool:
        """Store *response* for GETs of instance metadata with exactly this path and query.

        A record has METADATA_RESPONSES_MAX of them at most. Return False without storing it if the record's generation
        is not *generation*.
        """
    def metadata(self, target: bytes, now_ns: int) -> ReadyResponse | None:
        """Return the response for GETs of *target*; None without one, if it is not fresh, or while suspended."""
    def refusal(self, kind: int, now_ns: int) -> ReadyResponse | None:
        """Return the response for requests of *kind*; None without one, if it is not fresh, or while suspended."""
    def find(
        self, resource: bytes, selector_kind: int, selector_value: bytes, xms_cc: bytes, now_ns: int
    ) -> ReadyResponse | None:
        """Return the response for requests with this key; None without one, if it is not fresh, or while suspended."""
    __pyx_vtable__: object
    """C methods for other compiled modules."""

@final
class Index:
    """Pod records by address. IPv4 in C; IPv6 addresses are stored too, although no redirected request uses one."""

    def __init__(self) -> None: ...
    suspended: bool
    """While true, no ready response of any record is served (the watch is silent past its deadline)."""
    def put(self, address: str, record: PodRecord) -> None:
        """Assign *address* to *record*. Raise ValueError if *address* is not an IP address."""
    def remove(self, address: str, record: PodRecord) -> bool:
        """Remove *address* if it belongs to *record*. Return whether it did."""
    def unknown(self, address: str) -> PodRecord:
        """Return a record for ready refusals of *address*, which belongs to no pod.

        It ends with the next put() of the address, or when UNKNOWN_ADDRESSES_MAX others are newer; `get` never returns
        it. Raise ValueError for the address of a pod.
        """
    def get(self, address: str) -> PodRecord | None: ...
    def __len__(self) -> int: ...
    __pyx_vtable__: object
    """C methods for other compiled modules."""
