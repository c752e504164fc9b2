from typing import final

from typing_extensions import disjoint_base

from _native.histogram import Counter, Series

@final
class Usage:
    """The count and the time of uses of a token through ready responses. The token broker reads them."""

    def __init__(self) -> None: ...
    @property
    def last_ns(self) -> int:
        """time.monotonic_ns() of the last use; 0 if never."""
    def touch(self) -> None: ...
    def take(self) -> int:
        """Return the number of uses since the last call of take()."""
    __pyx_vtable__: object
    """C methods for other compiled modules."""

@disjoint_base
class ReadyResponse:
    """A whole HTTP response that the fast lane sends without Python code. Base class."""

    def __init__(self) -> None:
        """Raise TypeError: only the subclasses are created."""
    @property
    def expires_ns(self) -> int: ...
    @property
    def fresh_until_ns(self) -> int: ...
    @property
    def series(self) -> Series: ...
    @property
    def usage(self) -> Usage: ...
    @property
    def counter(self) -> Counter | None:
        """The counter of this kind of response, in addition to series and usage."""
    def render(self, now_ns: int, close: bool = False) -> bytes:
        """Return the bytes that the lane would write at *now_ns*; *close* adds `Connection: close`."""
    __pyx_vtable__: object
    """C methods for other compiled modules."""

@final
class TokenResponse(ReadyResponse):
    """A response with a token. Only the digits of expires_in change, in place and once per second at most."""

    def __init__(
        self, *, before: bytes, after: bytes, expires_ns: int, fresh_until_ns: int, series: Series, usage: Usage
    ) -> None:
        """*before* and *after* are the JSON body around the digits of expires_in.

        Times are time.monotonic_ns(). From *fresh_until_ns* on, the response is not served.
        Raise ValueError for a response of more than 64 KiB.
        """

@final
class FixedResponse(ReadyResponse):
    """A refusal: a response in which only the request id changes."""

    def __init__(
        self,
        *,
        head: bytes,
        body: bytes,
        body_has_id: bool,
        fresh_until_ns: int,
        series: Series,
        usage: Usage,
        counter: Counter | None = None,
    ) -> None:
        """*head* is the head without its last line end, which a new request id ends. With *body_has_id*,
        the same id and `"}` follow *body*.

        Raise ValueError for a response of more than 64 KiB.
        """

@final
class SharedText:
    """The text of shared responses. Its owner may replace or clear it at any time."""

    def __init__(self) -> None: ...
    @property
    def fresh_until_ns(self) -> int:
        """time.monotonic_ns() from which on the text is not served; 0 without a text."""
    def set(self, head: bytes, body: bytes, fresh_until_ns: int) -> None:
        """Replace the text. *head* is the head without its last line end. Raise ValueError beyond 64 KiB."""
    def clear(self) -> None: ...

@final
class SharedResponse(ReadyResponse):
    """A response with a SharedText, counted in the pod's own series."""

    def __init__(self, *, text: SharedText, series: Series, usage: Usage) -> None: ...
    @property
    def text(self) -> SharedText: ...
