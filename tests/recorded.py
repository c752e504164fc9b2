"""The text of recorded results in the repository: a list in JSON with one result on each line."""

from collections.abc import Iterable

import msgspec


def one_per_line(results: Iterable[msgspec.Struct]) -> bytes:
    """Return a list in JSON with one of *results* on each line, so that a diff shows the results that changed."""
    return b"[\n" + b",\n".join(map(msgspec.json.encode, results)) + b"\n]\n"
