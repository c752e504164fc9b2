"""Handlers of an informer's events."""

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from podidentity.resources import Resource

R_contra = TypeVar("R_contra", bound=Resource, contravariant=True)


class Changes(Protocol[R_contra]):
    """Handler of an informer's events, each for one object."""

    def upserted(self, old: R_contra | None, new: R_contra) -> None: ...

    def deleted(self, old: R_contra) -> None: ...


class ChangeHandler(Generic[R_contra]):
    """`Changes` as one function of the object before and after the event; either is None if there is none."""

    def __init__(self, change: Callable[[R_contra | None, R_contra | None], None]) -> None:
        self._change = change

    def upserted(self, old: R_contra | None, new: R_contra) -> None:
        self._change(old, new)

    def deleted(self, old: R_contra) -> None:
        self._change(old, None)
