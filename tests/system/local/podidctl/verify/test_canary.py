"""The canary: its restricted manifest, and its program, which recognizes who answers and never obtains a token."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from nmi.server.policy import ServerPolicy
from nmi.server.target import ProxiedPaths
from podidctl.facts.nmi_log import logged_peers
from podidctl.verify import canary
from podidctl.verify.pod import CANARY_LABELS, NmiTemplate, manifest
from podidentity.resources import BINDING_LABEL
from podidentity_sandbox.imds import Imds
from podidentity_sandbox.tokens import TokenMint
from tests.support.nmi.server.fakes import pod_entry
from tests.support.podidctl.verify.programs import LOCAL, in_place_of, run_canary, running_nmi
from tests.support.waiting import until
from tools.chart.rendering import render

OWNER = {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "nmi", "uid": "u-1", "controller": True}


def template() -> NmiTemplate:
    """Return a pod of the chart's DaemonSet."""
    (daemon,) = (item for item in render() if item["kind"] == "DaemonSet" and item["metadata"]["name"].endswith("nmi"))
    spec = {**daemon["spec"]["template"]["spec"], "imagePullSecrets": [{"name": "registry"}]}
    return msgspec.convert({"metadata": {"namespace": "podid", "ownerReferences": [OWNER]}, "spec": spec}, NmiTemplate)


def canary_pod(namespace: str = "podid") -> dict[str, Any]:
    nmi = template()
    return manifest(
        name="podidctl-verify-1",
        namespace=namespace,
        node="node-a",
        image=nmi.spec.containers[0].image,
        request_id="verify-id",
        template=nmi,
        deadline_seconds=90,
    )


@pytest.mark.tools
def test_it_runs_on_its_node_with_the_tolerations_of_nmi_and_ends_in_any_case() -> None:
    spec = canary_pod()["spec"]
    assert spec["nodeName"] == "node-a"
    assert spec["tolerations"] == [{"operator": "Exists"}]
    assert spec["imagePullSecrets"] == [{"name": "registry"}]
    assert (spec["activeDeadlineSeconds"], spec["restartPolicy"]) == (90, "Never")
    (container,) = spec["containers"]
    assert container["image"] == template().spec.containers[0].image
    assert container["resources"]["limits"].keys() == {"cpu", "memory"}
    assert container["command"][:3] == ["python3", "-I", "-c"]
    assert canary.PATH in container["command"][3]
    assert {"169.254.169.254", "80", "verify-id"} <= set(container["args"])
    assert container["terminationMessagePath"] == "/dev/termination-log"
    (owner,) = canary_pod()["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"]) == ("DaemonSet", "u-1")
    assert "controller" not in owner
    assert "ownerReferences" not in canary_pod("canaries")["metadata"]


@pytest.mark.tools
def test_it_has_no_token_and_no_permission_and_no_selector_of_the_chart_selects_it() -> None:
    spec, labels = canary_pod()["spec"], canary_pod()["metadata"]["labels"]
    assert spec["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "volumes"} & spec.keys()
    assert BINDING_LABEL not in labels
    for item in render():
        selector = item.get("spec", {}).get("selector") or {}
        wanted = selector.get("matchLabels", selector)
        assert not wanted or not wanted.items() <= labels.items(), item["metadata"]["name"]
    assert labels == CANARY_LABELS


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def listening(handler: Handler) -> AsyncIterator[int]:
    server = await asyncio.start_server(handler, LOCAL, 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


@pytest.mark.parametrize(
    "policy",
    [
        ServerPolicy(),
        ServerPolicy(require_metadata_header=False),
        ServerPolicy(proxied_paths=ProxiedPaths(everything=True)),
        ServerPolicy(block_instance_metadata=True, log_each_request=True),
    ],
    ids=["default", "without the header", "all paths proxied", "each request logged"],
)
async def test_nmi_answers_itself_and_logs_the_request(tmp_path: Path, policy: ServerPolicy) -> None:
    async with running_nmi(policy, pod_entry("default", "podidctl-verify-1")) as nmi:
        code, output, answers = await run_canary(tmp_path, nmi.port, "verify-abc")
    assert code == 0, output
    assert output.startswith("NMI answered at ")
    assert [line["who"] for line in answers] == ["nmi"] * 5
    assert {line["source"] for line in answers} == {LOCAL}
    assert set(logged_peers(nmi.log, "verify-abc")) == {LOCAL}
    assert logged_peers(nmi.log, "verify-ab") == ()
    (line,) = nmi.log.splitlines()
    assert line.startswith("I"), line
    assert "reason=unknown_path" in line.replace('"', "")
    assert nmi.proxy.forwarded == []
    assert nmi.token_service.requests == []


async def test_a_request_that_nmi_attributes_to_the_new_pod_is_logged_after_one_that_it_does_not(
    tmp_path: Path,
) -> None:
    """NMI learns the pod's address after its first request, and another pod may have had the address before."""
    async with running_nmi() as nmi:
        await run_canary(tmp_path, nmi.port, "verify-earlier")
        before = nmi.server.counters()["accepted"]
        marker = tmp_path / "known"
        pause, until_known = (
            "time.sleep(pause)",
            f"while pause and not Path({str(marker)!r}).exists(): time.sleep(0.01)",
        )
        text = in_place_of(tmp_path / "result", "(0.0, 0.0, 3.0, 0.0)")
        assert text.count(pause) == 1
        later = text.replace(pause, until_known)
        running = asyncio.create_task(run_canary(tmp_path, nmi.port, "verify-now", text=later))
        await until(lambda: nmi.server.counters()["accepted"] >= before + 2)  # the requests before the pause
        nmi.index.put(LOCAL, pod_entry("default", "podidctl-verify-2").record)
        await asyncio.to_thread(marker.touch)
        code, output, _ = await running
    assert code == 0, output
    assert logged_peers(nmi.log, "verify-now") == (LOCAL,)


async def test_imds_answers_and_returns_no_token(tmp_path: Path) -> None:
    imds = Imds(await asyncio.to_thread(TokenMint))
    await imds.start_on_loopback(lambda: pytest.fail("a token was requested"))
    try:
        code, output, answers = await run_canary(tmp_path, imds.port)
    finally:
        await imds.stop()
    assert code == 3
    assert output.startswith("IMDS answered: pods on this node get the node's own identities")
    assert {line["who"] for line in answers} == {"imds"}
    assert {call.path for call in imds.calls} == {canary.PATH}
    assert {call.status for call in imds.calls} == {400}
    assert {line["text"] for line in answers} == {"Required metadata header not specified"}


async def test_a_refused_connection_is_no_answer(tmp_path: Path) -> None:
    async with running_nmi() as nmi:
        port = nmi.port
    code, output, answers = await run_canary(tmp_path, port)
    assert code == 3
    assert output.startswith("no server answered at ")
    assert [line["who"] for line in answers] == ["nothing"] * canary.UNANSWERED_MAX
    assert "ConnectionRefusedError" in answers[0]["text"]


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()  # until the canary gives up
    writer.close()


async def dripping(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nServer: drip\r\n")
    while not writer.is_closing() and not reader.at_eof():
        writer.write(b"x-more: y\r\n")
        await asyncio.sleep(0.05)
    writer.close()


@pytest.mark.parametrize("handler", [silent, dripping])
async def test_an_incomplete_answer_ends_in_time(tmp_path: Path, handler: Handler) -> None:
    async with listening(handler) as port:
        text = in_place_of(tmp_path / "result", request_seconds=0.3)
        code, _, answers = await run_canary(tmp_path, port, text=text)
    assert code == 3
    assert {line["who"] for line in answers} == {"nothing"}
    assert "no complete response within 0.3 s" in answers[0]["text"] or "timed out" in answers[0]["text"]


def answering(data: bytes) -> Handler:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(data)
        await writer.drain()
        writer.close()

    return handler


def response(status: str, body: bytes, *fields: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *fields, "", ""]
    return "\r\n".join(lines).encode() + body


NESTED = b"[" * 3000
IMITATION = json.dumps(canary.NMI_RESPONSE).encode()


@pytest.mark.parametrize(
    ("data", "who"),
    [
        (response("200 OK", b'{"access_token":"secret"}'), "other"),
        (response("404 Not Found", b"404 page not found", "Server: nginx"), "other"),
        (response("404 Not Found", NESTED), "other"),
        (response("404 Not Found", b'["not_found"]'), "other"),
        (response("403 Forbidden", b'{"error":"access_denied","error_description":"Ask elsewhere."}'), "other"),
        (response("404 Not Found", IMITATION), "nmi"),
        (response("404 Not Found", IMITATION, "Server: IMDS/150.870.65.1854"), "imds"),
        (response("404 Not Found", b"", "Server: Microsoft-IIS/10.0"), "imds"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "other"),
        (response("200 OK", b"x" * 100_000), "other"),
    ],
)
async def test_the_sender_is_known_by_its_answer(tmp_path: Path, data: bytes, who: str) -> None:
    async with listening(answering(data)) as port:
        code, output, answers = await run_canary(tmp_path, port)
    assert {line["who"] for line in answers} == {who}
    assert code == (0 if who == "nmi" else 3)
    assert "secret" not in output
    assert len(json.dumps(answers)) < 4096  # the kubelet cuts longer messages


async def test_texts_of_a_server_are_printable_and_short(tmp_path: Path) -> None:
    body = json.dumps({"error_description": "\x1b[31m\n" + "é" * 500}).encode()
    async with listening(answering(response("500 Error", body, "Server: " + "s" * 900))) as port:
        _, output, answers = await run_canary(tmp_path, port)
    assert len(answers[0]["text"]) == len(answers[0]["server"]) == canary.TEXT_CHARS
    assert "\x1b" not in output
    assert len(json.dumps(answers)) < 4096
