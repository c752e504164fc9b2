from typing import final

from _native.histogram import Series

@final
class Usage:
    """The count and the time of uses of a token through ready answers. The token broker reads them."""

    def __init__(self) -> None: ...
    @property
    def last_ns(self) -> int:
        """time.monotonic_ns() of the last use; 0 if never."""
    def touch(self) -> None: ...
    def take(self) -> int:
        """Return the number of uses since the last call of take()."""
    __pyx_vtable__: object
    """C methods for other compiled modules."""

@final
class ReadyAnswer:
    """A whole HTTP answer. Only the digits of expires_in change, in place and once per second at most."""

    def __init__(
        self, *, before: bytes, after: bytes, expires_ns: int, fresh_until_ns: int, series: Series, usage: Usage
    ) -> None:
        """*before* and *after* are the JSON body around the digits of expires_in.

        Times are time.monotonic_ns(). From *fresh_until_ns* on, the answer is not served.
        Raise ValueError for an answer of more than 64 KiB.
        """
    @property
    def expires_ns(self) -> int: ...
    @property
    def fresh_until_ns(self) -> int: ...
    @property
    def series(self) -> Series: ...
    @property
    def usage(self) -> Usage: ...
    def render(self, now_ns: int, close: bool = False) -> bytes:
        """Return the bytes that the lane would write at *now_ns*; *close* adds `Connection: close`."""
    __pyx_vtable__: object
    """C methods for other compiled modules."""
