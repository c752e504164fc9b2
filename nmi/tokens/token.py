"""A token, in a type whose repr hides it."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Token:
    """A token that IMDS or Entra ID returned. Times are Unix seconds."""

    access_token: str = field(repr=False)
    expires_on: int
    not_before: int
    resource: str
    client_id: str = field(repr=False)
    token_type: str = "Bearer"  # noqa: S105
    refresh_token: str = field(default="", repr=False)
    ext_expires_in: str = ""
