"""Tests of the order of the handover's messages, on any sequence of messages."""

from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nmi.handover.messages import Message, ProtocolError, Rejection, Resumed, Retired, Taken
from nmi.handover.protocol import TRANSITIONS, Conversation, ConversationState, Role
from tests.nmi.handover.test_messages import MESSAGES

SERVING: dict[ConversationState, Role] = {
    state: Role.SUCCESSOR
    if state
    in {ConversationState.TAKEN, ConversationState.RETIRED, ConversationState.PASSED_ON, ConversationState.GIVING_BACK}
    else Role.PREDECESSOR
    for state in ConversationState
}


@settings(deadline=None)  # a busy machine
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


def test_every_state_is_reachable_and_every_message_is_used() -> None:
    reached = {ConversationState.CONNECTED}
    for _ in ConversationState:
        reached |= {after for (before, _, _), after in TRANSITIONS.items() if before in reached}
    assert reached == set(ConversationState)
    assert {kind for _, _, kind in TRANSITIONS} == set(get_args(Message))


def test_the_end_is_final() -> None:
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
