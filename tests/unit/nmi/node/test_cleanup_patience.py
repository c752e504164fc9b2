"""`nmi --cleanup` while another program holds the lock, or a table cannot be changed: it ends with the next action."""

from collections.abc import AsyncIterator

import pytest
from typing_extensions import override

from nmi.node import boot_guard
from nmi.node import cleanup as room
from nmi.node.redirect_choice import Backend
from nmi.node.rules import FoundRules, LockHeldError, RedirectError, RedirectSpec, RuleDriver, TopRule
from nmi.settings import parse
from podidentity.exits import StartError
from tests.support.virtual_time import now
from tests.unit.nmi.node.test_rule_maintenance import Tables, whole

SETTINGS = parse(["--cleanup"], {})


class Table(Tables):
    """A table that contains NMI's rule, and that cannot be changed."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    @override
    async def find(self, rule: TopRule) -> FoundRules:
        return whole(rule)

    @override
    def _fail(self, rule: TopRule) -> None:
        raise self._error


def on_this_node(monkeypatch: pytest.MonkeyPatch, driver: RuleDriver) -> None:
    async def drivers(to: RedirectSpec) -> AsyncIterator[tuple[Backend, RuleDriver, tuple[TopRule, ...]]]:
        yield Backend.IPTABLES_LEGACY, driver, (to.redirect,)

    monkeypatch.setattr(room, "_drivers", drivers)
    # These tests do not touch the machine's units; test_cleanup.py covers the guard in a separate directory.
    monkeypatch.setattr(boot_guard, "remove", lambda _directory: False)


async def test_a_lock_that_is_never_released_ends_cleanup_after_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    on_this_node(monkeypatch, Table(LockHeldError("held")))
    begun = now()
    with pytest.raises(StartError, match=r"the xtables lock was held for 60 s: find the iptables process"):
        await room.cleanup(SETTINGS)
    assert now() - begun == 60


async def test_a_table_that_cannot_be_changed_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    on_this_node(monkeypatch, Table(RedirectError("nat was not changed: no")))
    with pytest.raises(StartError, match="not everything was removed: nat was not changed: no; then run this again"):
        await room.cleanup(SETTINGS)
