"""Fuzz target of the handover: the messages of a successor or predecessor, and the tokens in them."""

import math
from typing import Final

from _native.ready_responses import Usage
from nmi.handover.messages import (
    DESCRIPTORS_MAX,
    PACKET_MAX,
    Message,
    ProtocolError,
    Tokens,
    decode,
    descriptors_of,
    encode,
)
from nmi.handover.protocol import Conversation, Role
from nmi.tokens.cache import CachedToken
from nmi.tokens.transfer import LIFETIME_MAX_SECONDS, PassedToken, ReceivedTokens, packets_of, tokens_in

NOW: Final = 1000.0
WALL_NOW: Final = 1_700_000_000.0
TEXT_MAX: Final = 300
"""Characters of a message's repr, without the texts of `hello`."""


class HandoverMessages:
    """Packets, one a line: each is a message of bounded size or a violation, and tokens serve their own key only."""

    def __call__(self, data: bytes) -> None:
        messages = [message for packet in data.split(b"\n") if (message := self._message(packet)) is not None]
        for receiver in Role:
            self._converse(receiver, messages)
        for packet in (data, *(message.packet for message in messages if isinstance(message, Tokens))):
            self._tokens(packet)

    def _message(self, packet: bytes) -> Message | None:
        try:
            message = decode(packet)
        except ProtocolError:
            return None
        assert len(packet) <= PACKET_MAX
        assert 0 <= descriptors_of(message) <= DESCRIPTORS_MAX
        assert decode(encode(message)) == message
        assert not isinstance(message, Tokens) or len(repr(message)) < TEXT_MAX
        return message

    def _converse(self, receiver: Role, messages: list[Message]) -> None:
        ends = {role: Conversation(role) for role in Role}
        for message in messages:
            before = ends[receiver].state
            try:
                ends[receiver].received(message)
            except ProtocolError:
                assert ends[receiver].state is before, "a violation changed the state"
            else:
                ends[receiver.peer].sent(message)
            assert ends[receiver].state is ends[receiver.peer].state

    def _tokens(self, packet: bytes) -> None:
        received = ReceivedTokens()
        stored, refused = received.add(packet, NOW)
        assert stored == len(received)
        tokens, invalid = tokens_in(packet)
        assert stored + refused == len(tokens) + invalid
        assert [token for again in packets_of(tokens) for token in tokens_in(again)[0]] == tokens
        for token in tokens:
            self._use(received, token)
        assert len(received) == 0

    def _use(self, received: ReceivedTokens, passed: PassedToken) -> None:
        key = passed.key
        size = len(received)
        for other_key in (key._replace(pod=key.pod + "x"), key._replace(resource=key.resource + "x")):
            taken = received.take(other_key, NOW)
            assert taken is None or taken[0].lasting == other_key.lasting
        taken = received.take(key, NOW)
        if taken is None:  # a second token of the same key, or of the keys above
            return
        assert len(received) < size
        used, fetched, refresh_in = taken
        assert used.lasting == key.lasting
        cached = CachedToken(fetched, NOW, WALL_NOW, 1.0, Usage())
        cached.refresh_in(refresh_in, NOW)
        assert math.isfinite(cached.expires_at)
        assert cached.expires_at <= NOW + LIFETIME_MAX_SECONDS
        assert math.isfinite(cached.refresh_at)
        assert fetched.token.access_token not in repr((passed, fetched, cached))
