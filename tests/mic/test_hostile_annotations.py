"""The annotation with pending detaches, as written by other clients."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mic.decisions.assignments import (
    DETACH_PENDING_ANNOTATION,
    PENDING_DETACHES_MAX,
    PENDING_DETACHES_TEXT_MAX,
    ExistingAssignment,
    PendingDetach,
    encode_pending_detaches,
)
from podidentity.resources import AzureAssignedIdentity, Meta
from tests.support.objects import identity_id, set_id, vm_id

ONE = PendingDetach(vm_id(), identity_id("one"))


def pending_detaches(text: str) -> tuple[PendingDetach, ...]:
    return ExistingAssignment(
        AzureAssignedIdentity(metadata=Meta(annotations={DETACH_PENDING_ANNOTATION: text}))
    ).pending_detaches


@pytest.mark.parametrize(
    "text",
    [
        "[" * 60_000,
        "[" * 30_000 + "]" * 30_000,
        '{"a":' * 20_000,
        "[[" + "9" * 60_000 + "]]",
        "1e999",
        '[["\\ud800","' + identity_id("one") + '"]]',
        '"' + "a" * 60_000 + '"',
        "{}",
        "null",
        "nonsense",
        "",
    ],
    ids=lambda text: text[:20],
)
def test_an_invalid_list_of_pending_detaches_is_ignored_at_little_cost(text: str) -> None:
    began = time.process_time()
    assert pending_detaches(text) == ()
    assert time.process_time() - began < 0.5  # the garbage collector may run in between


@pytest.mark.parametrize(
    "entry",
    [
        ["no host", identity_id("one")],
        [vm_id(), "no identity"],
        [vm_id()],
        [vm_id(), identity_id("one"), "more"],
        [vm_id(), 1],
        [[[[]]]],
        {},
        None,
        ["/" * 3000, identity_id("one")],
    ],
    ids=repr,
)
def test_an_invalid_entry_does_not_hide_a_valid_one(entry: object) -> None:
    assert pending_detaches(json.dumps([entry, list(ONE), entry])) == (ONE,)


def test_a_written_list_is_read_back() -> None:
    several = (ONE, PendingDetach(set_id(), identity_id("two")))
    assert pending_detaches(encode_pending_detaches(several)) == several


def test_the_number_of_entries_and_the_length_are_limited() -> None:
    many = [PendingDetach(vm_id(f"n{number}"), identity_id("one")) for number in range(PENDING_DETACHES_MAX + 10)]
    assert pending_detaches(encode_pending_detaches(many)) == tuple(many[:PENDING_DETACHES_MAX])
    assert pending_detaches(encode_pending_detaches([ONE]) + " " * PENDING_DETACHES_TEXT_MAX) == ()
    one = encode_pending_detaches([ONE])[1:]
    assert pending_detaches("[" + "0," * (PENDING_DETACHES_MAX - 1) + one) == (ONE,)
    assert pending_detaches("[" + "0," * PENDING_DETACHES_MAX + one) == ()


@given(st.text() | st.recursive(st.none() | st.text() | st.integers(), st.lists, max_leaves=30).map(json.dumps))
def test_no_text_causes_an_exception(text: str) -> None:
    assert all(isinstance(each, PendingDetach) for each in pending_detaches(text))
