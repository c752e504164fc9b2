from typing import final

from _native.histogram import Series

@final
class Usage:
    """How often something was served from ready answers, and when last: read by the token broker."""

    def __init__(self) -> None: ...
    @property
    def last_ns(self) -> int:
        """time.monotonic_ns() of the last use; 0 if never."""
    def touch(self) -> None: ...
    def take(self) -> int:
        """How often since the last call of take()."""
    __pyx_vtable__: object
    """How other compiled rooms call it."""

@final
class ReadyAnswer:
    """A whole HTTP answer but for the digits of expires_in, which are written anew in place, once a second at most."""

    def __init__(
        self, *, before: bytes, after: bytes, expires_ns: int, fresh_until_ns: int, series: Series, usage: Usage
    ) -> None:
        """*before* and *after* are the JSON body around the digits of expires_in.

        Times are time.monotonic_ns(). From *fresh_until_ns* on the answer is no longer served.
        Raises ValueError when it would be over 64 KiB.
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
        """What the lane would write at *now_ns*; *close* adds `Connection: close`."""
    __pyx_vtable__: object
    """How other compiled rooms call it."""
