"""Lists of the selected objects of a revision, in order and in pages. Pure, over a history."""

import binascii
from dataclasses import dataclass

import msgspec

from podidentity_sandbox import base64url
from podidentity_sandbox.kubeapi import selectors
from podidentity_sandbox.kubeapi.history import History, Item, Key, TooOldError
from podidentity_sandbox.kubeapi.requests import ListOptions, Target, revision
from podidentity_sandbox.kubeapi.statuses import bad_request, expired, revision_too_large


class _Continue(msgspec.Struct):
    """The content of a continue token: the revision of the list (0: the current state), and the last key sent."""

    rv: int
    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a list."""

    items: list[Item]
    revision: int
    continue_token: str = ""
    remaining: int | None = None


def page(history: History, target: Target, options: ListOptions) -> Page:
    """Return the page for *options*. Raise StatusError: 400, 410 for a compacted revision, 504 for a future one."""
    selects = selectors.both(
        selectors.by_labels(options.label_selector),
        selectors.by_fields(options.field_selector, target.resource.fields),
    )
    at, after = _position(history, options)
    entries = _entries_at(history, target, at, after) if at else history.items(target.resource.name)
    chosen = [
        (key, item)
        for key, item in entries
        if (after is None or key > after)
        and target.namespace in {"", key[0]}
        and (selects is None or selects(item.document))
    ]
    shown = at or history.revision
    if not options.limit or len(chosen) <= options.limit:
        return Page([item for _, item in chosen], shown)
    cut = chosen[: options.limit]
    return Page(
        [item for _, item in cut],
        shown,
        _token(shown, cut[-1][0]),
        # The real server counts the remaining objects only without selectors, where that is cheap.
        None if selects is not None else len(chosen) - len(cut),
    )


def _position(history: History, options: ListOptions) -> tuple[int, Key | None]:
    if options.continue_token:
        token = _read(options.continue_token)
        return token.rv, (token.namespace, token.name)
    asked = revision(options.resource_version)
    if asked > history.revision:
        raise revision_too_large(asked, history.revision)
    if options.match == "Exact":
        if not asked:
            raise bad_request("resourceVersionMatch Exact is forbidden for resourceVersion 0")
        return asked, None
    return 0, None


def _entries_at(history: History, target: Target, at: int, after: Key | None) -> list[tuple[Key, Item]]:
    try:
        return history.items_at(target.resource.name, at)
    except TooOldError as error:
        if after is None:
            raise expired(f"The resourceVersion for the provided list is too old: {at} ({error.oldest})") from error
        raise expired(
            "The provided continue parameter is too old to display a consistent list result. You can start a new list "
            "without the continue parameter, or use the continue token in this response to retrieve the remainder of "
            "the results. Continuing with the provided token results in an inconsistent list - objects that were "
            "created, modified, or deleted between the time the first chunk was returned and now may show up in the "
            "list.",
            continue_token=_token(0, after),
        ) from error


def _token(at: int, key: Key) -> str:
    return base64url.encode(msgspec.json.encode(_Continue(at, *key)))


def _read(text: str) -> _Continue:
    try:
        return msgspec.json.decode(base64url.decode(text), type=_Continue)
    except (ValueError, binascii.Error, msgspec.DecodeError) as error:
        raise bad_request(f"invalid continue token: continue key is not valid: {str(error)[:100]}") from error
