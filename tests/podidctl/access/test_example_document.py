"""The stored example of the document: `-o json` of the small cluster."""

from pathlib import Path

from podidctl.access.differences import read_document
from podidctl.access.schema import SCHEMA_VERSION
from tests.podidctl.access.small_cluster import document, reviewed

EXAMPLE = Path(__file__).with_name("review_example.json")


def test_the_stored_document_is_what_the_command_prints() -> None:
    assert document(reviewed()).decode() == EXAMPLE.read_text(), "write it with document(reviewed())"


def test_the_document_can_be_read_again() -> None:
    read = read_document(EXAMPLE.read_bytes())
    assert read.schema_version == SCHEMA_VERSION
    assert read == reviewed()
