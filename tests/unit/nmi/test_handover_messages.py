"""Tests of the handover's messages: every message survives its packet, no other is accepted, and their order.

Excluded: arbitrary bytes (tests/nightly/fuzz/handover.py).
"""

from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nmi.handover.messages import (
    DESCRIPTORS_MAX,
    PACKET_MAX,
    TOKEN_BYTES_MAX,
    VERSIONS,
    Connections,
    Hello,
    Message,
    PassedOn,
    ProtocolError,
    Rejection,
    Resumed,
    Retired,
    SocketName,
    Sockets,
    Take,
    Taken,
    Tokens,
    Welcome,
    common_version,
    decode,
    descriptors_of,
    encode,
    shared_sockets,
)
from nmi.handover.protocol import TRANSITIONS, Conversation, ConversationState, Role

TEXT = st.text(max_size=256)
PORT = st.integers(0, 65535)
NAMES = st.lists(st.sampled_from(get_args(SocketName)), max_size=4).map(tuple)
HELLO = st.builds(
    Hello,
    versions=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=32).map(tuple),
    release=TEXT,
    listen_address=TEXT,
    listen_port=PORT,
    probe_port=PORT,
    metrics_port=PORT,
    node_address=TEXT,
)
EMPTY = [kind for kind in get_args(Message) if not msgspec.structs.fields(kind)]
MESSAGES: st.SearchStrategy[Message] = st.one_of(
    HELLO,
    st.builds(Welcome, version=st.integers(0, 1000), release=TEXT, sockets=NAMES),
    st.builds(Rejection, TEXT),
    st.builds(Tokens, st.binary(max_size=1000)),
    st.builds(Sockets, NAMES),
    st.builds(Connections, st.integers(1, DESCRIPTORS_MAX)),
    st.sampled_from([kind() for kind in EMPTY]),
)


@given(MESSAGES)
def test_every_message_survives_its_packet(message: Message) -> None:
    packet = encode(message)
    assert len(packet) <= PACKET_MAX
    assert decode(packet) == message


@given(MESSAGES)
def test_unknown_fields_are_ignored(message: Message) -> None:
    fields = msgspec.json.decode(encode(message), type=dict[str, object])
    assert decode(msgspec.json.encode({**fields, "of_a_later_version": [1, {"a": None}]})) == message


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        b"null",
        b"[" * 500 + b"]" * 500,
        b'{"type":"unknown"}',
        b'{"type":"connections","count":0}',
        b'{"type":"connections","count":65}',
        b'{"type":"sockets","names":["shell"]}',
        b'{"type":"rejection","reason":"' + b"x" * 257 + b'"}',
        b'{"type":"rejection","reason":"\xff"}',
        b'{"type":"take"}' + b" " * PACKET_MAX,
        b'{"type":"hello","versions":[' + b",".join([b"1"] * 33) + b"]}",
    ],
    ids=lambda packet: packet[:20].decode(errors="replace"),
)
def test_packets_beyond_the_limits_are_refused(packet: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(packet)


def test_the_largest_message_with_tokens_fits_into_a_packet_and_a_larger_one_is_refused() -> None:
    assert decode(encode(Tokens(b"x" * TOKEN_BYTES_MAX))) == Tokens(b"x" * TOKEN_BYTES_MAX)
    with pytest.raises(ProtocolError):
        decode(b'{"type":"tokens","packet":"' + b"eHh4" * (TOKEN_BYTES_MAX // 3 + 1) + b'"}')
    with pytest.raises(ProtocolError):
        encode(Rejection("x" * PACKET_MAX))


def test_no_text_of_a_message_shows_tokens() -> None:
    assert "secret" not in f"{Tokens(b'secret')} {Tokens(b'secret')!r} {(Tokens(b'secret'),)}"


def test_descriptors_belong_to_two_messages() -> None:
    assert [
        descriptors_of(message) for message in (Sockets(("probes", "probes")), Connections(7), Take(), PassedOn())
    ] == [
        2,
        7,
        0,
        0,
    ]


@given(st.lists(st.integers(-5, 5)))
def test_the_highest_common_version_is_chosen(versions: list[int]) -> None:
    version = common_version(versions)
    if version is None:
        assert not set(versions) & set(VERSIONS)
    else:
        assert version == max(set(versions) & set(VERSIONS))


@given(HELLO, st.booleans(), st.booleans(), st.booleans(), st.booleans())
def test_only_sockets_with_the_same_settings_are_shared(
    hello: Hello, listen: bool, probes: bool, metrics: bool, node: bool
) -> None:
    shared = shared_sockets(
        hello,
        (hello.listen_address, hello.listen_port + (not listen)),
        hello.probe_port + (not probes),
        hello.metrics_port + (not metrics),
        hello.node_address if node else f"{hello.node_address}0",
    )
    both = listen and node and hello.node_address != ""
    assert set(shared) == {
        name for name, same in zip(get_args(SocketName), (listen, probes, metrics, both), strict=True) if same
    }


def test_an_older_successor_gets_no_listener_that_it_does_not_know() -> None:
    older = decode(
        b'{"type":"hello","versions":[1,2],"release":"1.0","listen_address":"127.0.0.1","listen_port":2579,'
        b'"probe_port":8085,"metrics_port":9090}'
    )
    assert isinstance(older, Hello)
    assert shared_sockets(older, ("127.0.0.1", 2579), 8085, 9090, "10.224.0.4") == ("listener", "probes", "metrics")
    newer = msgspec.structs.replace(older, node_address="10.224.0.4")
    assert shared_sockets(newer, ("127.0.0.1", 2579), 8085, 9090, "10.224.0.4") == get_args(SocketName)
    assert shared_sockets(newer, ("127.0.0.1", 2579), 8085, 9090, "") == ("listener", "probes", "metrics")


SERVING: dict[ConversationState, Role] = {
    state: Role.SUCCESSOR
    if state
    in {ConversationState.TAKEN, ConversationState.RETIRED, ConversationState.PASSED_ON, ConversationState.GIVING_BACK}
    else Role.PREDECESSOR
    for state in ConversationState
}


@given(st.lists(st.tuples(st.sampled_from(Role), MESSAGES), max_size=30))
def test_both_ends_agree_on_every_sequence(sequence: list[tuple[Role, Message]]) -> None:
    ends = {role: Conversation(role) for role in Role}
    for sender, message in sequence:
        before = {end.state for end in ends.values()}
        try:
            ends[sender].sent(message)
        except ProtocolError:
            with pytest.raises(ProtocolError):
                ends[sender.peer].received(message)
            assert {end.state for end in ends.values()} == before, "a violation changes nothing"
        else:
            ends[sender.peer].received(message)
        assert len({end.state for end in ends.values()}) == 1


def test_every_state_is_reachable_every_message_is_used_and_the_end_is_final() -> None:
    reached = {ConversationState.CONNECTED}
    for _ in ConversationState:
        reached |= {after for (before, _, _), after in TRANSITIONS.items() if before in reached}
    assert reached == set(ConversationState)
    assert {kind for _, _, kind in TRANSITIONS} == set(get_args(Message))
    assert ConversationState.ENDED not in {before for before, _, _ in TRANSITIONS}


def test_only_a_confirmation_or_a_return_changes_who_serves() -> None:
    changes = {kind for (before, _, kind), after in TRANSITIONS.items() if SERVING[before] is not SERVING[after]}
    assert Taken in changes
    assert changes <= {
        Taken,
        Resumed,
        Rejection,
        *[kind for (_, _, kind), after in TRANSITIONS.items() if after is ConversationState.ENDED],
    }
    assert Retired not in changes
