"""Refreshes ahead of expiry, which no pod is charged for: those of one namespace delay those of no other one."""

import asyncio

import pytest

from nmi.subprocesses import Finished
from tests.nmi.tokens.virtual_sign_ins import Node, identity_of_type
from tests.virtual_time import now

HALF_LIFE = 43_200.0


async def test_a_slow_refresh_of_one_namespace_delays_no_other_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """With certificates: two of them are read at the same time."""
    node = Node(0.3, monkeypatch)
    slow, other = (identity_of_type(2, name, namespace=name) for name in ("evil", "shop"))
    for identity in (slow, slow, other, other):  # a token that is requested once is not refreshed
        await node.token(identity, f"{identity.metadata.namespace}/a")
    began: list[float] = []

    async def hang(_arguments: object, *, given: str, seconds: float) -> Finished:
        assert "client-of-" in given
        began.append(now())
        await asyncio.sleep(seconds)
        return Finished(1, "", "")

    monkeypatch.setattr("nmi.tokens.certificate.run", hang)
    await asyncio.sleep(HALF_LIFE + 2.0)
    assert len(began) == 2
    assert began[1] - began[0] < 1.0
