"""Objects of one informer, and its handler: each change of the objects is one call of the handler.

An object over a limit, or one that makes the handler raise, counts as absent. If the handler fails to remove an object,
its state is unreliable until a later list succeeds in removing it.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Final, Generic, Protocol, TypeVar

from podidentity.kube.backoff import Backoff
from podidentity.kube.decoding import TooLong
from podidentity.object_limits import oversized
from podidentity.resources import BareMeta, Resource

T = TypeVar("T", bound=Resource)
T_contra = TypeVar("T_contra", bound=Resource, contravariant=True)

DOUBT_SECONDS: Final = 5.0
DOUBT_MAX_SECONDS: Final = 300.0
"""Pause before everything is listed again after a handler failed to remove an object: initial and maximum value."""


class Handler(Protocol[T_contra]):
    """Receiver of changes. Called synchronously from the informer's task, after the store has changed.

    After an exception of `upserted`, `deleted` is called for the same object, so that no former state remains; this may
    be the first call for the object. After an exception of `deleted` the call is repeated later.
    """

    def upserted(self, old: T_contra | None, new: T_contra) -> None:
        """*new* exists; *old* is the former state if it is the same object (uid)."""

    def deleted(self, old: T_contra) -> None:
        """*old*, in its last known state, was deleted or does not match the selectors any more."""


class ObjectStore(Generic[T]):
    """The stored parts of an informer's objects by (namespace, name)."""

    def __init__(
        self,
        handler: Handler[T],
        *,
        keep: Callable[[T], T],
        skip: Callable[[BareMeta, Exception], None],
        on_doubt: Callable[[], None],
        clock: Callable[[], float],
        random: Callable[[], float],
        hold: bool = False,
    ) -> None:
        """*keep* returns the part of an object that is stored. *skip* reports an object that counts as absent.

        *on_doubt* is called when the handler's state becomes unreliable. *hold*: no object is passed to the handler
        before `release`.
        """
        self.handler = handler
        self._keep = keep
        self._skip = skip
        self._on_doubt = on_doubt
        self._clock = clock
        self._items: dict[tuple[str, str], T] = {}
        self.view: Mapping[tuple[str, str], T] = MappingProxyType(self._items)
        """All objects; a live view."""
        self._holding = hold
        self._held: dict[tuple[str, str], T] = {}
        """Objects that the handler does not have, while `release` passes them to it one by one."""
        self._undeleted: dict[tuple[str, str], T] = {}
        """Objects that the handler failed to remove."""
        self._doubt_backoff = Backoff(random, first_seconds=DOUBT_SECONDS, most_seconds=DOUBT_MAX_SECONDS)
        self.list_due_at = math.inf
        """When everything must be listed again, by the clock."""

    @property
    def doubtful(self) -> bool:
        """Whether the handler has an object that it failed to remove."""
        return bool(self._undeleted)

    def postpone_list(self) -> None:
        """Set the time of the next list, later with each call."""
        self.list_due_at = self._clock() + DOUBT_SECONDS + self._doubt_backoff.next()

    def begin_list(self) -> None:
        """Let the handler remove the objects that it failed to remove before."""
        for old in [*self._undeleted.values()]:
            self._forget(old)

    def end_list(self) -> None:
        """Record a complete list."""
        if not self._undeleted:
            self.list_due_at = math.inf
            self._doubt_backoff.reset()

    def within_limits(self, item: T) -> T:
        """Return the stored part of *item*. Raises TooLong if a field is over its limit."""
        if reason := oversized(item):
            raise TooLong(reason)
        return self._keep(item)

    def put_all(self, objects: Mapping[tuple[str, str], T]) -> Iterator[None]:
        """Put the objects of a list, by key, one before each yield; all together if the handler gets none of them."""
        if self._holding and not self._items:
            self._items.update(objects)
            return
        for key, new in objects.items():
            self._put(key, new)
            yield

    def put(self, new: T) -> None:
        """Store *new* and pass it to the handler, unless this version of it is stored."""
        self._put(new.key, new)

    def _put(self, key: tuple[str, str], new: T) -> None:
        old = self._items.get(key)
        if old is not None:
            if old.metadata.uid != new.metadata.uid:
                # Another object of this name. The handler must not take it for a new version of the former one.
                self.remove(key)
                old = None
            elif old.metadata.resource_version == new.metadata.resource_version:
                return
        if self._undeleted and (former := self._undeleted.get(key)) is not None:
            self._forget(former)
            if key in self._undeleted:
                return  # else the handler would have two objects of one name
        self._items[key] = new
        if self._held and key in self._held:
            self._held[key] = new
        elif not self._holding:
            self._pass_on(key, old, new)

    def remove(self, key: tuple[str, str]) -> None:
        """Remove an object, if it is stored, and let the handler remove it."""
        old = self._items.pop(key, None)
        if old is None or self._holding:
            return
        if key in self._held:
            del self._held[key]
        else:
            self._forget(old)

    def release(self) -> Iterator[None]:
        """Pass the held objects to the handler, one before each yield.

        Changes in between are stored; those of objects that the handler has are also passed to it.
        """
        held = self._held = self._items.copy()
        self._holding = False
        while held:
            key, new = held.popitem()
            self._pass_on(key, None, new)
            yield

    def _pass_on(self, key: tuple[str, str], old: T | None, new: T) -> None:
        """Pass *new*, which is stored, to the handler."""
        try:
            self.handler.upserted(old, new)
        except Exception as error:  # noqa: BLE001 - the handler's exception concerns only this object
            self._skip(new.metadata, error)
            del self._items[key]
            self._forget(new if old is None else old)

    def _forget(self, old: T) -> None:
        """Let the handler remove *old*, which is no longer in the store; retry later if it fails."""
        try:
            self.handler.deleted(old)
        except Exception as error:  # noqa: BLE001 - as above
            fresh = not self._undeleted
            self._undeleted[old.key] = old
            self._skip(old.metadata, error)
            if fresh:
                self.postpone_list()
                self._on_doubt()
        else:
            self._undeleted.pop(old.key, None)
