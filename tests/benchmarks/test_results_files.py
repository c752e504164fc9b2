"""A results file is read as it was written, and other files are rejected."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.results import FOLDER, SCHEMA, file_name, read, write
from tests.benchmarks.sample_results import FULL


def test_a_written_file_can_be_read(tmp_path: Path) -> None:
    assert read(write(FULL, tmp_path / "results")) == FULL


def test_a_file_name_contains_day_and_commit(tmp_path: Path) -> None:
    assert write(FULL, tmp_path).name == "2026-01-02-0123456789.json"
    assert file_name(replace(FULL, changed=True)) == "2026-01-02-0123456789+.json"


def test_a_file_of_another_schema_is_rejected(tmp_path: Path) -> None:
    file = write(replace(FULL, schema=SCHEMA + 1), tmp_path)
    with pytest.raises(ValueError, match=f"has schema {SCHEMA + 1}, this is {SCHEMA}: read it with the suite of"):
        read(file)


@pytest.mark.parametrize("body", ["", "[]", '{"schema": 1}', '{"schema": 1, "date": "yesterday"}'])
def test_an_invalid_results_file_is_rejected(tmp_path: Path, body: str) -> None:
    file = tmp_path / "odd.json"
    file.write_text(body)
    with pytest.raises(ValueError, match=r"odd\.json is no results file of this suite .*run `make bench` again"):
        read(file)


def test_every_committed_results_file_can_be_read_and_names_no_directory() -> None:
    for file in FOLDER.glob("2*.json"):
        found = read(file)
        assert file.name == file_name(found)
        assert not any(word in file.read_text() for word in ('"/', "/home", "/tmp"))
