"""The order of the messages of a handover. Pure: both ends check each message that they send or receive."""

from enum import Enum, auto
from typing import Final

from nmi.handover.messages import (
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
    Welcome,
)


class Role(Enum):
    """The two ends."""

    PREDECESSOR = auto()
    SUCCESSOR = auto()

    @property
    def peer(self) -> "Role":
        return Role.SUCCESSOR if self is Role.PREDECESSOR else Role.PREDECESSOR


class State(Enum):
    """What has been agreed. The predecessor serves until PASSED_SOCKETS, the successor from TAKEN on."""

    CONNECTED = auto()
    GREETED = auto()
    REGISTERED = auto()
    TAKING = auto()
    PASSED_SOCKETS = auto()
    TAKEN = auto()
    RETIRED = auto()
    GIVING_BACK = auto()
    PASSED_ON = auto()
    ENDED = auto()


_OLD: Final = Role.PREDECESSOR
_NEW: Final = Role.SUCCESSOR

TRANSITIONS: Final[dict[tuple[State, Role, type[Message]], State]] = {
    (State.CONNECTED, _NEW, Hello): State.GREETED,
    (State.GREETED, _OLD, Welcome): State.REGISTERED,
    (State.REGISTERED, _NEW, Take): State.TAKING,
    (State.TAKING, _OLD, Sockets): State.PASSED_SOCKETS,
    (State.PASSED_SOCKETS, _NEW, Taken): State.TAKEN,
    (State.TAKEN, _OLD, Retired): State.RETIRED,
    (State.RETIRED, _OLD, Connections): State.RETIRED,
    (State.RETIRED, _NEW, GiveBack): State.GIVING_BACK,
    (State.RETIRED, _NEW, PassedOn): State.PASSED_ON,
    (State.PASSED_ON, _OLD, Connections): State.PASSED_ON,
    (State.GIVING_BACK, _OLD, Connections): State.GIVING_BACK,
    (State.GIVING_BACK, _OLD, Resumed): State.ENDED,
    # The predecessor refuses a successor, or serves on because the successor takes too long.
    (State.GREETED, _OLD, Rejection): State.ENDED,
    (State.REGISTERED, _OLD, Rejection): State.ENDED,
    (State.TAKING, _OLD, Rejection): State.ENDED,
    (State.PASSED_SOCKETS, _OLD, Rejection): State.ENDED,
    (State.TAKEN, _OLD, Rejection): State.ENDED,
    (State.GIVING_BACK, _OLD, Rejection): State.ENDED,
}
"""The state after a message, by the state before, the sender, and the type of the message."""


class Conversation:
    """One end's view of the order."""

    def __init__(self, role: Role) -> None:
        self.role = role
        self.state = State.CONNECTED

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
