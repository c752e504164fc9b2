"""Objects that the type upgrade cannot rewrite: it names them and rewrites the others."""

import asyncio
import logging
from typing import Any

import pytest

import mic.startup.type_upgrade
from mic.startup.type_upgrade import NAMED_MAX, REWRITTEN_MAX
from podidentity.resources import GROUP
from podidentity.version import VERSION
from tests.support.depths import TOO_DEEP_VALUE
from tests.support.mic.type_upgrade.upgraded_cluster import BINDINGS, IDENTITIES, KEY, Cluster, refusing, upgrade_on
from tests.support.podidentity.kube.scripted import Reply, ScriptedServer, status


def refused(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the objects that the log names as those that cannot be rewritten."""
    return [each.__dict__["resource"] for each in caplog.records if "cannot be rewritten" in each.message]


async def test_an_invalid_object_is_logged_and_the_others_continue(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    cluster.create(BINDINGS, "bad", {"Selector": "x", "Weight": "a lot"})
    cluster.create(BINDINGS, "good", {"Selector": "x", "Weight": 1})
    cluster.create(IDENTITIES, "demo", {"ClientID": "c"})
    with caplog.at_level(logging.INFO, "mic.startup.type_upgrade"):
        await cluster.start()
    assert cluster.spec(BINDINGS, "good") == {"selector": "x", "weight": 1}
    assert cluster.spec(BINDINGS, "bad") == {"Selector": "x", "Weight": "a lot"}
    assert cluster.spec(IDENTITIES) == {"clientID": "c"}
    assert cluster.recorded() is None
    assert refused(caplog) == ["AzureIdentityBinding default/bad"]
    sending = asyncio.create_task(cluster.recorder.run())
    await cluster.recorder.flushed()
    sending.cancel()
    (event,) = cluster.api.store.list("events")
    assert (event["involvedObject"]["name"], event["type"]) == ("bad", "Warning")
    assert "weight" in event["message"]
    # Corrected by its owner, it is upgraded at the next start.
    cluster.api.store.patch(BINDINGS, "bad", {"spec": {"Weight": 3}}, "default")
    await cluster.start()
    assert cluster.spec(BINDINGS, "bad") == {"selector": "x", "weight": 3}
    assert cluster.recorded() == {KEY: VERSION}


async def test_a_thousand_invalid_objects_do_not_fill_the_log(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(NAMED_MAX + 30):
        cluster.create(BINDINGS, f"b{number}", {"Weight": "x"})
    with caplog.at_level(logging.INFO, "mic.startup.type_upgrade"):
        await cluster.start()
    assert len(refused(caplog)) == NAMED_MAX
    assert any(f"0 rewritten, {NAMED_MAX + 30} left" in str(each.__dict__.get("outcome")) for each in caplog.records)


async def test_an_object_rejected_by_a_broken_webhook_blocks_no_other(cluster: Cluster) -> None:
    for name in ("a", "b", "c"):
        cluster.create(IDENTITIES, name, {"ClientID": name})
    refusing(cluster, 500, "InternalError", times=1000, method="PUT", what="azureidentities/b")
    await cluster.start()
    assert [cluster.spec(IDENTITIES, name) for name in ("a", "b", "c")] == [
        {"clientID": "a"},
        {"ClientID": "b"},
        {"clientID": "c"},
    ]
    assert cluster.recorded() is None


GOOD = b'{"metadata":{"name":"good","namespace":"ns"},"spec":{"ClientID":"c"}}'
DEEP = b'{"metadata":{"name":"deep","namespace":"ns"},"spec":{"ClientID":"c","x":%s1%s}}' % (
    b"[" * TOO_DEEP_VALUE,
    b"]" * TOO_DEEP_VALUE,
)
ODD = b'{"metadata":{"name":["odd"],"namespace":"ns"},"spec":{"ClientID":"c"}}'


@pytest.mark.parametrize(
    ("lists", "named"),
    [([DEEP + b"," + GOOD, DEEP, GOOD], ["AzureIdentity ns/deep"]), ([ODD + b"," + GOOD], ["AzureIdentity /"])],
    ids=["nested too deeply", "unexpected metadata"],
)
async def test_an_unreadable_object_is_logged_and_the_others_continue(
    caplog: pytest.LogCaptureFixture, lists: list[bytes], named: list[str]
) -> None:
    server = ScriptedServer()
    server.lists += [status(404, "NotFound"), status(404, "NotFound")]
    server.lists += [Reply(b'{"metadata":{},"items":[%s]}' % each) for each in lists]
    server.lists += [Reply(b'{"metadata":{}}')] * 3
    server.others.append(Reply(GOOD))
    assert await upgrade_on(server) == [("PUT", f"/apis/{GROUP}/v1/namespaces/ns/azureidentities/good")]
    assert refused(caplog) == named
    assert any("is incomplete" in each.message for each in caplog.records)


@pytest.mark.parametrize("what", ["respelled", "decode_meta"])
async def test_an_unexpected_exception_ends_nothing(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    """An exception for one object omits this object. Any other one leaves the upgrade to the next start."""
    for name in ("bad", "good"):
        cluster.create(IDENTITIES, name, {"ClientID": name})
    real = getattr(mic.startup.type_upgrade, what)

    def fails(*given: Any) -> Any:
        if b"bad" in bytes(given[-1]) if what == "decode_meta" else given[-1].get("metadata", {}).get("name") == "bad":
            raise LookupError("odd")
        return real(*given)

    monkeypatch.setattr(mic.startup.type_upgrade, what, fails)
    await cluster.start()
    assert cluster.recorded() is None
    if what == "respelled":
        assert cluster.spec(IDENTITIES, "good") == {"clientID": "good"}
        assert refused(caplog) == ["AzureIdentity default/bad"]
    else:
        assert any("failed unexpectedly" in each.message for each in caplog.records)


async def test_an_object_too_large_to_rewrite_is_named_and_the_others_continue(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    cluster.create(IDENTITIES, "large", {"ClientID": "c", "unknown": "x" * (REWRITTEN_MAX + 1)})
    cluster.create(IDENTITIES, "small", {"ClientID": "c"})
    await cluster.start()
    assert "ClientID" in cluster.spec(IDENTITIES, "large")
    assert cluster.spec(IDENTITIES, "small") == {"clientID": "c"}
    assert cluster.recorded() is None
    assert refused(caplog) == ["AzureIdentity default/large"]
    assert any("limit is" in each.__dict__.get("reason", "") for each in caplog.records)
