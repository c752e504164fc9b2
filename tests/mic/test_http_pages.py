"""HTTP endpoints of a real MIC: readiness, and the pages on loopback."""

import json
import urllib.error

import pytest

from tests.mic.emulated_cloud import EmulatedCloud, Mic
from tests.support.waiting import until


async def ready(mic: Mic) -> dict[str, bool]:
    """The checks of /readyz, and whether each is met."""
    try:
        page = await mic.page("/readyz")
    except urllib.error.HTTPError as answer:
        page = answer.read().decode()
    lines = [line for line in page.splitlines() if line.startswith("[")]
    return {line[3:].partition(" ok")[0].partition(":")[0]: line.startswith("[+]") for line in lines}


async def another(cloud: EmulatedCloud) -> Mic:
    """A second process, which waits for the lease, once it listens."""
    mic = await cloud.mic(active=False)
    await until(lambda: mic.page("/healthz"), "MIC listens", ignoring=OSError)
    return mic


async def test_the_leader_and_a_candidate_waiting_for_the_lease_are_ready(cloud: EmulatedCloud) -> None:
    leader = await cloud.mic()
    waiting = await another(cloud)
    await until(lambda: ready(waiting), "the candidate is ready", holds=lambda checks: all(checks.values()))
    for mic in (leader, waiting):
        assert await ready(mic) == {"api server": True, "watches": True, "azure": True}
    pages = [await mic.page("/metrics") for mic in (leader, waiting)]
    assert "aadpodidentity_mic_lease_held 1.0\n" in pages[0]
    assert "aadpodidentity_mic_lease_held 0.0\n" in pages[1]
    assert await waiting.stop() == 0
    assert "the lease is released" not in waiting.read_log(), "it had none"


async def test_unusable_credentials_make_the_leader_not_ready(cloud: EmulatedCloud) -> None:
    config = json.loads((cloud.folder / "azure.json").read_text())
    (cloud.folder / "azure.json").write_text(json.dumps(config | {"aadClientSecret": "wrong"}))
    cloud.node("n0")
    cloud.identity()
    mic = await cloud.mic()
    assert await ready(mic) == {"api server": True, "watches": True, "azure": True}
    cloud.pod("web", "n0")
    await until(lambda: ready(mic), "MIC is not ready", holds=lambda checks: not checks["azure"])
    await cloud.until(lambda: "no token for Resource Manager" in mic.read_log())
    assert "azure.identity" not in mic.read_log(), "the library's lines are another one at each try"


async def test_the_state_is_served_on_loopback_and_a_profile_if_enabled(cloud: EmulatedCloud) -> None:
    cloud.node("n0")
    cloud.identity()
    mic = await cloud.mic("--enableProfile")
    cloud.pod("web", "n0")
    await cloud.until(lambda: cloud.assigned() == {"web-default-demo": "Assigned"})
    state = json.loads(await mic.page("/debug/state"))
    assert state["health"] == "Active"
    assert state["cluster"]["assigned identities"] == 1
    assert state["lease"]["seconds"] > 0
    secret = json.loads((cloud.folder / "azure.json").read_text())["aadClientSecret"]
    assert secret not in json.dumps(state)
    await mic.page("/debug/profile?seconds=1")
    plain = await another(cloud)
    with pytest.raises(urllib.error.HTTPError, match="404"):
        await plain.page("/debug/profile?seconds=1")
