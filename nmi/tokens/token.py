"""A token, in a type whose repr hides it."""

from podidentity.hidden_fields import HidingStruct


class Token(HidingStruct, frozen=True, weakref=True):
    """A token that IMDS or Entra ID returned. Times are Unix seconds."""

    hidden = frozenset({"access_token", "client_id", "refresh_token"})

    access_token: str
    expires_on: int
    not_before: int
    resource: str
    client_id: str
    token_type: str = "Bearer"  # noqa: S105
    refresh_token: str = ""
    ext_expires_in: str = ""
