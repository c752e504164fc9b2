"""The order of the messages of a handover. Pure: both ends check each message that they send or receive."""

from enum import Enum, auto
from typing import Final

from nmi.handover.messages import (
    Adopted,
    Connections,
    GiveBack,
    Hello,
    Message,
    PassedOn,
    ProtocolError,
    Rejection,
    Resumed,
    Retired,
    Sockets,
    Take,
    Taken,
    Tokens,
    Welcome,
)


class Role(Enum):
    """The two ends."""

    PREDECESSOR = auto()
    SUCCESSOR = auto()

    @property
    def peer(self) -> "Role":
        return Role.SUCCESSOR if self is Role.PREDECESSOR else Role.PREDECESSOR


class ConversationState(Enum):
    """What has been agreed. The predecessor serves until PASSED_SOCKETS, the successor from TAKEN to
    GIVING_BACK, and the predecessor from RESUMED on.
    """

    CONNECTED = auto()
    GREETED = auto()
    REGISTERED = auto()
    TAKING = auto()
    PASSED_SOCKETS = auto()
    TAKEN = auto()
    RETIRED = auto()
    GIVING_BACK = auto()
    RESUMED = auto()
    PASSED_ON = auto()
    ENDED = auto()


_OLD: Final = Role.PREDECESSOR
_NEW: Final = Role.SUCCESSOR

TRANSITIONS: Final[dict[tuple[ConversationState, Role, type[Message]], ConversationState]] = {
    (ConversationState.CONNECTED, _NEW, Hello): ConversationState.GREETED,
    (ConversationState.GREETED, _OLD, Welcome): ConversationState.REGISTERED,
    (ConversationState.REGISTERED, _NEW, Take): ConversationState.TAKING,
    (ConversationState.TAKING, _OLD, Tokens): ConversationState.TAKING,
    (ConversationState.TAKING, _OLD, Sockets): ConversationState.PASSED_SOCKETS,
    (ConversationState.PASSED_SOCKETS, _NEW, Taken): ConversationState.TAKEN,
    (ConversationState.TAKEN, _OLD, Retired): ConversationState.RETIRED,
    (ConversationState.RETIRED, _OLD, Connections): ConversationState.RETIRED,
    (ConversationState.RETIRED, _NEW, Adopted): ConversationState.RETIRED,
    (ConversationState.RETIRED, _NEW, GiveBack): ConversationState.GIVING_BACK,
    (ConversationState.RETIRED, _NEW, PassedOn): ConversationState.PASSED_ON,
    (ConversationState.PASSED_ON, _OLD, Connections): ConversationState.PASSED_ON,
    (ConversationState.PASSED_ON, _NEW, Adopted): ConversationState.PASSED_ON,
    (ConversationState.GIVING_BACK, _OLD, Connections): ConversationState.GIVING_BACK,
    (ConversationState.GIVING_BACK, _NEW, Adopted): ConversationState.GIVING_BACK,
    (ConversationState.GIVING_BACK, _OLD, Resumed): ConversationState.RESUMED,
    (ConversationState.RESUMED, _NEW, Connections): ConversationState.RESUMED,
    (ConversationState.RESUMED, _OLD, Adopted): ConversationState.RESUMED,
    # The predecessor refuses a successor, or serves on because the successor takes too long.
    (ConversationState.GREETED, _OLD, Rejection): ConversationState.ENDED,
    (ConversationState.REGISTERED, _OLD, Rejection): ConversationState.ENDED,
    (ConversationState.TAKING, _OLD, Rejection): ConversationState.ENDED,
    (ConversationState.PASSED_SOCKETS, _OLD, Rejection): ConversationState.ENDED,
    (ConversationState.TAKEN, _OLD, Rejection): ConversationState.ENDED,
    (ConversationState.GIVING_BACK, _OLD, Rejection): ConversationState.ENDED,
}
"""The state after a message, by the state before, the sender, and the type of the message."""


class Conversation:
    """One end's view of the order."""

    def __init__(self, role: Role) -> None:
        self.role = role
        self.state = ConversationState.CONNECTED

    def sent(self, message: Message) -> None:
        """Record that this end sends *message*. Raise ProtocolError if it is not its turn."""
        self._advance(self.role, message)

    def received(self, message: Message) -> None:
        """Record that the peer has sent *message*. Raise ProtocolError if it was not its turn."""
        self._advance(self.role.peer, message)

    def _advance(self, sender: Role, message: Message) -> None:
        state = TRANSITIONS.get((self.state, sender, type(message)))
        if state is None:
            raise ProtocolError(
                f"{type(message).__name__} from the {sender.name.lower()} is not expected in state {self.state.name}"
            )
        self.state = state
