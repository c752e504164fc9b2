"""A head that the fast lane's scanner accepts has the oracle's meaning; both use the bytes only.

Excluded: the general lane and sockets (test_lanes_agree.py).
"""

import pytest
from hypothesis import example, given

from _native import query, scan
from tests.contract.native.fast_refusals import TOKEN_PATH, fast_refusal
from tests.contract.native.mutations import mutated, plausible, refusable
from tests.support.corpus.corpus import ACCEPTED, EVERY, FAST_REFUSALS, REFUSED, Case
from tests.support.oracle.refusals import read_refusal
from tests.support.oracle.requests import ServedRequest, Verdict, read

WITH_AN_UNKNOWN_PARAMETER = (
    b"GET /metadata/identity/oauth2/token?resource=r&x=y HTTP/1.1\r\nHost: a\r\nMetadata: true\r\n\r\n"
)
"""The fast lane's query reader leaves it to the general lane, although it has a resource."""


def fast(data: bytes) -> ServedRequest | None:
    """Return the fast lane's answer to *data*, in the oracle's form; None if it would hand it over."""
    outcome, size, text, metadata, close, kind = scan.examine(data)
    parameters = query.examine(text) if (outcome, kind) == ("done", TOKEN_PATH) else None
    if parameters is None or not metadata:
        return None
    resource, selector, value, xms_cc = parameters
    return ServedRequest(size, resource.decode(), selector, value.decode(), xms_cc.decode(), close, cacheable=True)


def name_of(case: Case) -> str:
    return case.name


@pytest.mark.parametrize("case", EVERY, ids=name_of)
def test_the_fast_lane_and_the_oracle_read_a_request_as_the_corpus_states(case: Case) -> None:
    taken, refused, meaning = fast(case.data), fast_refusal(case.data), read(case.data)
    assert (taken is not None) == case.grants_fast
    assert refused == (read_refusal(case.data) if case.name in FAST_REFUSALS else None)
    assert (refused is not None) == (case.name in FAST_REFUSALS)
    assert meaning is Verdict.UNSURE or isinstance(meaning, ServedRequest) == (case.status == 200)
    if case.grants_fast:
        assert taken == meaning


@given(data=mutated() | plausible() | refusable())
@example(data=WITH_AN_UNKNOWN_PARAMETER)
def test_the_oracle_refuses_a_random_request_that_the_fast_lane_refuses_equally(data: bytes) -> None:
    refusal = fast_refusal(data)
    if refusal is not None and refusal.kind != "INSTANCE":
        assert refusal == read_refusal(data)


@pytest.mark.parametrize("byte", range(256))
@pytest.mark.parametrize("name", ["404-identity-info", "404-versions", "405-instance-post", "400-no-resource"])
def test_each_byte_at_each_position_is_refused_only_as_the_oracle_reads_it(name: str, byte: int) -> None:
    data = next(case.data for case in REFUSED if case.name == name)
    for at in range(len(data)):
        changed = data[:at] + bytes([byte]) + data[at + 1 :]
        refusal = fast_refusal(changed)
        assert refusal is None or refusal.kind == "INSTANCE" or refusal == read_refusal(changed), changed


@pytest.mark.parametrize("case", [case for case in ACCEPTED if case.grants_fast], ids=name_of)
def test_every_prefix_of_a_fast_request_is_incomplete_and_data_after_it_change_nothing(case: Case) -> None:
    assert {scan.examine(case.data[:cut])[0] for cut in range(len(case.data))} == {"more"}
    assert fast(case.data + b"\0\r\n anything") == fast(case.data)


@pytest.mark.parametrize("case", [case for case in EVERY if not case.grants_fast], ids=name_of)
def test_a_rejected_request_stays_rejected_after_more_data(case: Case) -> None:
    outcomes = [scan.examine(case.data[:cut])[0] for cut in range(len(case.data) + 1)]
    first = outcomes.index("refused") if "refused" in outcomes else len(outcomes)
    assert set(outcomes[first:]) <= {"refused"}


@given(data=mutated() | plausible())
def test_the_oracle_reads_a_mutated_request_that_the_fast_lane_accepts_equally(data: bytes) -> None:
    taken = fast(data)
    assert taken is None or taken == read(data)


@pytest.mark.parametrize("byte", range(256))
def test_each_byte_at_each_position_is_accepted_only_as_the_oracle_reads_it(byte: int) -> None:
    data = ACCEPTED_WITH_EVERYTHING
    for at in range(len(data)):
        changed = data[:at] + bytes([byte]) + data[at + 1 :]
        taken = fast(changed)
        assert taken is None or taken == read(changed), changed


ACCEPTED_WITH_EVERYTHING = (
    b"GET //metadata/identity/oauth2/token/?api-version=1&resource=a%2Fb&client_id=C%41&xms_cc=cp1 HTTP/1.1\r\n"
    b"Host: a-b.c:80\r\nMetadata: true\r\nX: \ty z\t\r\nConnection: close\r\n\r\n"
)


@pytest.mark.parametrize("at", range(20))
def test_each_byte_at_each_position_of_a_value_is_judged_equally(at: int) -> None:
    """Values are read in steps of eight bytes, and their ends byte by byte."""
    for byte in range(256):
        value = bytes([*b"a" * at, byte, *b"a" * (19 - at)])
        data = (
            b"GET /metadata/identity/oauth2/token?resource=r HTTP/1.1\r\nHost: a\r\nMetadata: true\r\nX: "
            + value
            + b"\r\n\r\n"
        )
        assert (fast(data) is not None) == (0x20 <= byte <= 0x7E or byte == 0x09), byte
        if fast(data) is not None:
            assert fast(data) == read(data)
