"""How long, and how often, the next owner of an address gets the former owner's token: measured on the real NMI.

`python -m tests.nightly.soak.handover SECONDS`, as root. Pods are network namespaces behind a bridge or behind one
interface each (`tests.system.local.integration.handover_node`). An address changes its owner by one batch of `ip`,
faster than any CNI plugin could; the former pod is never marked for deletion, and the API server receives the change
only after a delay. From before its first moment the next pod sends requests, on kept connections and on new ones.
"""

import asyncio
import functools
import http.client
import itertools
import json
import math
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

from typing_extensions import override

from podidentity_sandbox.network import METADATA_ADDRESS
from podidentity_sandbox.tokens import read_claims
from tests.support.waiting import until
from tests.system.local.integration.handover_node import PATH, SUBNET, Node, nodes, running

KINDS: Final = ("bridge", "point-to-point")
DELAYS: Final = (0.0, 0.01, 0.1, 1.0)
"""Seconds from the hand-over to the report of it."""
AFTER_SECONDS: Final = 0.5
"""How long requests continue after the report, and after the next owner's first token."""
SENDERS: Final = 3
"""Of each sort: on connections that are kept, and on new ones."""
CONNECT_SECONDS: Final = 0.01
ADDRESS: Final = f"{SUBNET}.5"


@dataclass
class Row:
    """The results of all hand-overs of one kind."""

    kind: str
    evidence: bool
    delay: float
    began: float = field(default_factory=time.monotonic)
    hand_overs: int = 0
    answers: int = 0
    granted: int = 0
    former: int = 0
    """Answers with the former owner's token."""
    latest: float = 0.0
    """The longest time from the hand-over to this kind of response, seconds."""

    @override
    def __str__(self) -> str:
        latest = f"{self.latest * 1000:.1f} ms" if self.former else "none"
        evidence = "on" if self.evidence else "off"
        cells = (self.kind, evidence, f"{self.delay * 1000:g} ms", self.hand_overs, self.granted, self.former, latest)
        return f"| {' | '.join(map(str, cells))} |"


HEAD: Final = """\
| pods' network | evidence | reported after | hand-overs | tokens given | former owner's | latest after |
| --- | --- | --- | --- | --- | --- | --- |"""


def ask_until(stop: threading.Event, responses: list[tuple[float, str]], *, kept: bool) -> None:
    """Send requests without a pause until *stop* is set. Append the time of each response, and the client id in it.

    For a thread that is inside the pod.
    """
    client_of = functools.cache(lambda token: read_claims(token)["appid"])
    connection = None
    while not stop.is_set():
        try:
            if connection is None:
                connection = http.client.HTTPConnection(METADATA_ADDRESS, 80, timeout=CONNECT_SECONDS)
                connection.connect()
                connection.sock.settimeout(5.0)
            connection.request("GET", PATH, headers={"Metadata": "true"})
            response = connection.getresponse()
            text = response.read()
            token = json.loads(text)["access_token"] if response.status == 200 else ""
            responses.append((time.monotonic(), client_of(token) if token else ""))
            failed = False
        except (OSError, http.client.HTTPException):
            failed = True
        if connection is not None and (failed or not kept):
            connection.close()
            connection = None
    if connection is not None:
        connection.close()


async def hand_over(node: Node, row: Row, former: tuple[str, str], successor: tuple[str, str]) -> None:
    """Pass the address from a pod to the next one, each a name and a client id, and add the results to *row*."""
    await asyncio.to_thread(node.net.prepare, successor[0], ADDRESS)
    stop, responses = threading.Event(), list[tuple[float, str]]()
    senders = ThreadPoolExecutor(2 * SENDERS)
    requests = [
        senders.submit(node.net.call, successor[0], functools.partial(ask_until, stop, responses, kept=kept))
        for kept in (True, False) * SENDERS
    ]
    try:
        await asyncio.sleep(0.05)  # the requests are running, and are refused
        moment = time.monotonic()
        await asyncio.to_thread(node.net.hand_over, former[0], successor[0], ADDRESS)
        wall_second = math.floor(time.time())
        await asyncio.sleep(max(0.0, moment + row.delay - time.monotonic()))
        await node.status(former[0], ended())
        await node.status(successor[0], running(ADDRESS))
        # With evidence, a container that was started in the second of the hand-over does not end the suspension: the
        # start time of whole seconds does not show which came first. One that is started in the next second does.
        await asyncio.sleep(max(0.0, wall_second + 1.05 - time.time()))
        await node.status(successor[0], running(ADDRESS))
        await until(lambda: any(client_id == successor[1] for _, client_id in responses), "a token of the next owner")
        await asyncio.sleep(AFTER_SECONDS)
    finally:
        stop.set()
        await asyncio.to_thread(senders.shutdown)
    for request in requests:
        request.result()
    for received, client_id in responses:
        assert client_id in ("", former[1], successor[1]), f"a token of neither owner: {client_id}"
        row.answers += 1
        row.granted += client_id != ""
        if client_id == former[1]:
            row.former += 1
            row.latest = max(row.latest, received - moment)
    row.hand_overs += 1


def ended() -> dict[str, object]:
    """Return the status that the kubelet reports for a pod whose sandbox was removed."""
    started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 60))
    state = {"terminated": {"exitCode": 0, "reason": "Completed", "startedAt": started}}
    return {
        "phase": "Running",
        "conditions": [{"type": "PodReadyToStartContainers", "status": "False"}],
        "containerStatuses": [
            {"name": "main", "image": "pause", "imageID": "", "ready": False, "restartCount": 0, "state": state}
        ],
    }


async def measured(kind: str, *, evidence: bool, delays: tuple[float, ...], enough: Callable[[Row], bool]) -> list[Row]:
    """Run hand-overs on one node, for each delay until *enough* returns True for its row."""
    rows = []
    async with nodes(kind, f"--address-evidence={'true' if evidence else 'false'}") as node:
        identities = [(label, (await node.identity(label)).client_id) for label in ("one", "two")]
        serial = itertools.count()

        async def created() -> tuple[str, str]:
            """Return the name and client id of a new pod, known to the API server and without an address."""
            number = next(serial)
            label, client_id = identities[number % 2]
            await node.create(f"pod-{number}", label)
            return f"pod-{number}", client_id

        async def granted(pod: str, client_id: str) -> None:
            await until(lambda: node.ask(pod), "a token", holds=lambda response: response.client_id == client_id)

        owner = await created()
        await node.add(owner[0], ADDRESS)
        await node.report(owner[0], ADDRESS)
        await granted(*owner)
        for delay in delays:
            row = Row(kind, evidence, delay)
            while not enough(row):
                former, owner = owner, await created()
                await hand_over(node, row, former, owner)
                await granted(*owner)
                await node.delete(former[0])
            rows.append(row)
    return rows


async def main(seconds: float) -> None:
    """Measure all kinds, in about the given number of seconds. Print the table."""
    share = seconds / (2 * len(KINDS) * len(DELAYS))
    print(HEAD)  # noqa: T201
    for kind, evidence in itertools.product(KINDS, (True, False)):
        rows = await measured(
            kind, evidence=evidence, delays=DELAYS, enough=lambda row: time.monotonic() - row.began >= share
        )
        print(*rows, sep="\n", flush=True)  # noqa: T201


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1])))
