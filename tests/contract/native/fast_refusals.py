"""The refusal that the fast lane would send for a request, in the oracle's form."""

from collections.abc import Callable

from _native import query, scan
from nmi.server.ready_refusals import RequestKind
from tests.support.oracle.refusals import Refused

TOKEN_PATH = 1
"""The kind of a GET of the token path (`_native.scan`)."""


def fast_refusal(
    data: bytes,
    examine_head: Callable[[bytes], tuple[str, int, bytes, bool, bool, int]] = scan.examine,
    examine_query: Callable[[bytes], tuple[bytes, int, bytes, bytes] | None] = query.examine,
    has_no_resource: Callable[[bytes], bool] = query.has_no_resource,
) -> Refused | None:
    """Return the refusal of *data* that the fast lane sends if one of its kind is ready; None without one."""
    outcome, size, text, metadata, close, kind = examine_head(data)
    if outcome != "done":
        return None
    if kind != TOKEN_PATH:
        return Refused(RequestKind(kind).name, size, close)
    if not metadata:
        return Refused(RequestKind.NO_HEADER.name, size, close)
    missing = examine_query(text) is None and has_no_resource(text)
    return Refused(RequestKind.NO_RESOURCE.name, size, close) if missing else None
