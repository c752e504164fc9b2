"""`python -m podidctl doctor` as a process on the sandbox's API server: its requests, output and exit code."""

from tests.support.mic.emulated_cloud import IDENTITIES, EmulatedCloud
from tests.support.mic.preview.run_programs import CommandResult, run

LOCK = "/api/v1/namespaces/default/endpoints/aad-pod-identity-mic"


async def ask(cloud: EmulatedCloud, *words: str) -> CommandResult:
    return await run(cloud.folder, "podidctl", "doctor", *words, cloudconfig=False)


def checks(answer: CommandResult) -> dict[str, str]:
    """The worst of each check."""
    order = ("ok", "unknown", "warning", "problem")
    worst: dict[str, str] = {}
    for finding in answer.document["findings"]:
        before = worst.get(finding["check"], "ok")
        worst[finding["check"]] = max(before, finding["level"], key=order.index)
    return worst


async def test_doctor_reads_and_never_writes(cloud: EmulatedCloud) -> None:
    cloud.node("n0")
    cloud.identity()
    mic = await cloud.mic()
    cloud.pod("web", "n0")
    await cloud.until(lambda: cloud.assigned() == {"web-default-demo": "Assigned"})
    # Endpoints of a Service with the name of the lock are no lock.
    meta = {"name": "aad-pod-identity-mic", "namespace": "default"}
    service = {"metadata": meta, "subsets": [{"addresses": [{"ip": "192.0.2.1"}], "ports": [{"port": 80}]}]}
    cloud.api.store.create("endpoints", service)
    answer = await ask(cloud, "-o", "json")
    assert (answer.code, answer.err) == (1, ""), "NMI and MIC are not pods here, so their state is unknown"
    assert {name for name, level in checks(answer).items() if level != "ok"} == {"NMI", "MIC"}
    assert {"API server", "clocks", "definitions", "spellings", "leader", "selectors"} <= set(checks(answer))
    (leader,) = [finding for finding in answer.document["findings"] if finding["check"] == "leader"]
    assert "Endpoints" not in leader["says"]
    ours = [request for request in cloud.api.requests if "podidctl" in request.user_agent]
    assert {request.method for request in ours} == {"GET"}
    # A Service, also one of type ExternalName, cannot change where a request goes or what a check finds.
    assert not [request.path for request in ours if "/services" in request.path]
    assert {request.path for request in ours if "/endpoints" in request.path} == {LOCK}

    for node, text in (("n7", "no node n7"), ("No Node", "not a valid node name")):
        refused = await ask(cloud, f"--node={node}")
        assert (refused.code, refused.out) == (2, "")
        assert text in refused.err

    await mic.stop()
    cloud.api.store.patch(IDENTITIES, "demo", {"spec": {"clientID": "client-of-another"}}, "default")
    answer = await run(cloud.folder, "podidctl", "doctor", "-o", "json")
    (finding,) = [finding for finding in answer.document["findings"] if finding["check"] == "client ids"]
    assert finding["level"] == "problem"
    assert "'client-of-another'" in finding["says"]
