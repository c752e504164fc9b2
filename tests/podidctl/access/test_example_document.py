"""The stored example of the document: `-o json` of the small cluster, with one element of a list on each line."""

import json
from pathlib import Path

import msgspec

from podidctl.access.schema import SCHEMA_VERSION, AccessReview
from tests.podidctl.access.small_cluster import document, reviewed

EXAMPLE = Path(__file__).with_name("review_example.json")


def example_of(review: bytes) -> str:
    """Return the example for a document."""
    fields = [f"{json.dumps(name)}: {_lines(value)}" for name, value in json.loads(review).items()]
    return "{\n" + ",\n".join(fields) + "\n}\n"


def _lines(value: object) -> str:
    if not isinstance(value, list) or not value:
        return json.dumps(value)
    return "[\n  " + ",\n  ".join(map(json.dumps, value)) + "\n]"


def test_the_stored_document_is_what_the_command_prints() -> None:
    assert example_of(document(reviewed())) == EXAMPLE.read_text(), "write it with example_of(document(reviewed()))"


def test_the_document_can_be_read_again() -> None:
    read = msgspec.json.decode(EXAMPLE.read_bytes(), type=AccessReview)
    assert read.schema_version == SCHEMA_VERSION
    assert read == reviewed()
