"""How long, and how often, the next owner of an address gets the former owner's token: measured on the real NMI.

`python -m tests.nightly.soak.handover SECONDS [OUT.json]`, as root. Pods are network namespaces behind a bridge or
behind one interface each (`tests.system.local.integration.handover_node`). An address changes its owner by one batch of
`ip`, faster than any CNI plugin could; the former pod is never marked for deletion, and the API server receives the
change only after a delay. From before its first moment the next pod sends requests, on kept connections and on new
ones.
"""

import asyncio
import http.client
import itertools
import json
import math
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from podidentity_sandbox.network import METADATA_ADDRESS
from podidentity_sandbox.tokens import read_claims
from tests.support.waiting import until
from tests.system.local.integration.handover_node import PATH, SUBNET, Node, nodes, running

KINDS: Final = ("bridge", "point-to-point")
DELAYS: Final = (0.0, 0.01, 0.1, 1.0)
"""Seconds from the hand-over to the report of it."""
AFTER_SECONDS: Final = 0.5
"""How long requests continue after the report."""
SENDERS: Final = 3
"""Of each sort: on connections that are kept, and on new ones."""
CONNECT_SECONDS: Final = 0.01
ADDRESS: Final = f"{SUBNET}.5"


@dataclass(frozen=True, slots=True)
class Seen:
    """One answer to the next owner. Times are time.monotonic()."""

    sent: float
    received: float
    status: int
    client_id: str


@dataclass(slots=True)
class Row:
    """The results of all hand-overs of one kind."""

    kind: str
    evidence: bool
    delay: float
    hand_overs: int = 0
    answers: int = 0
    granted: int = 0
    former: int = 0
    """Answers with the former owner's token."""
    latest: float = 0.0
    """The longest time from the hand-over to this kind of response, seconds."""


def ask_until(stop: threading.Event, *, kept: bool) -> list[Seen]:
    """Requests without a pause until *stop* is set. For a thread that is inside the pod."""
    seen: list[Seen] = []
    connection: http.client.HTTPConnection | None = None
    known: dict[str, str] = {}
    while not stop.is_set():
        try:
            if connection is None:
                connection = http.client.HTTPConnection(METADATA_ADDRESS, 80, timeout=CONNECT_SECONDS)
                connection.connect()
                connection.sock.settimeout(5.0)
            sent = time.monotonic()
            connection.request("GET", PATH, headers={"Metadata": "true"})
            response = connection.getresponse()
            text = response.read()
            received = time.monotonic()
            token = json.loads(text)["access_token"] if response.status == 200 else ""
            if token and token not in known:
                known[token] = read_claims(token)["appid"]
            seen.append(Seen(sent, received, response.status, known.get(token, "")))
        except (OSError, http.client.HTTPException):
            if connection is not None:
                connection.close()
            connection = None
            continue
        if not kept:
            connection.close()
            connection = None
    if connection is not None:
        connection.close()
    return seen


class HandOvers:
    """An address of one node that passes from pod to pod."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._serial = itertools.count()
        self._identities: list[tuple[str, str]] = []
        """Label and client id."""
        self._pool = ThreadPoolExecutor(2 * SENDERS)
        self._owner = ""
        self._client_id = ""

    async def begin(self) -> None:
        """The first owner, which has its token."""
        for label in ("one", "two"):
            self._identities.append((label, (await self._node.identity(label)).client_id))
        self._owner, self._client_id = await self._created()
        await self._node.add(self._owner, ADDRESS)
        await self._node.report(self._owner, ADDRESS)
        await self._granted()

    def close(self) -> None:
        self._pool.shutdown()

    async def once(self, row: Row) -> None:
        """Hand the address over, and add the results to *row*."""
        former, former_id = self._owner, self._client_id
        successor, self._client_id = await self._created()
        await asyncio.to_thread(self._node.net.prepare, successor, ADDRESS)
        stop = threading.Event()
        senders = [self._send(successor, stop, kept=kept) for kept in (True, False) for _ in range(SENDERS)]
        await asyncio.sleep(0.05)  # the requests are running, and are refused
        moment = time.monotonic()
        await asyncio.to_thread(self._node.net.hand_over, former, successor, ADDRESS)
        wall_second = math.floor(time.time())
        self._owner = successor
        await asyncio.sleep(max(0.0, moment + row.delay - time.monotonic()))
        await self._node.status(former, ended())
        await self._node.status(successor, running(ADDRESS))
        # With evidence, a container that was started in the second of the hand-over does not end the suspension: the
        # start time of whole seconds does not show which came first. One that is started in the next second does.
        await asyncio.sleep(max(0.0, wall_second + 1.05 - time.time()))
        await self._node.status(successor, running(ADDRESS))
        await asyncio.sleep(AFTER_SECONDS)
        stop.set()
        for answers in await asyncio.gather(*senders):
            for seen in answers:
                self._count(row, seen, former_id, moment)
        row.hand_overs += 1
        await self._granted()
        await self._node.delete(former)

    def _count(self, row: Row, seen: Seen, former_id: str, moment: float) -> None:
        row.answers += 1
        row.granted += bool(seen.client_id)
        if seen.client_id == former_id:
            row.former += 1
            row.latest = max(row.latest, seen.received - moment)
        elif seen.client_id not in ("", self._client_id):
            raise AssertionError(f"a token of neither owner: {seen}")

    def _send(self, pod: str, stop: threading.Event, *, kept: bool) -> "asyncio.Future[list[Seen]]":
        def inside() -> list[Seen]:
            return self._node.net.call(pod, lambda: ask_until(stop, kept=kept))

        return asyncio.get_running_loop().run_in_executor(self._pool, inside)

    async def _created(self) -> tuple[str, str]:
        """The name of a new pod, which is known to the API server and has no address yet, and its client id."""
        number = next(self._serial)
        label, client_id = self._identities[number % 2]
        name = f"pod-{number}"
        await self._node.create(name, label)
        return name, client_id

    async def _granted(self) -> None:
        """Wait until the owner gets its own token."""
        await until(
            lambda: self._node.ask(self._owner), "a token", holds=lambda answer: answer.client_id == self._client_id
        )


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
    """Run handovers on one node, for each delay until *enough* returns True for its row."""
    rows = [Row(kind, evidence, delay) for delay in delays]
    async with nodes(kind, f"--address-evidence={'true' if evidence else 'false'}") as node:
        hand_overs = HandOvers(node)
        try:
            await hand_overs.begin()
            for row in rows:
                while not enough(row):
                    await hand_overs.once(row)
        finally:
            hand_overs.close()
    return rows


async def measure(seconds: float) -> list[Row]:
    """Measure all kinds, in about the given number of seconds."""
    rows: list[Row] = []
    share = seconds / (2 * len(KINDS) * len(DELAYS))

    def within() -> Callable[[Row], bool]:
        begun: dict[float, float] = {}

        def enough(row: Row) -> bool:
            return time.monotonic() - begun.setdefault(row.delay, time.monotonic()) >= share

        return enough

    for kind in KINDS:
        for evidence in (True, False):
            rows += await measured(kind, evidence=evidence, delays=DELAYS, enough=within())
    return rows


def table(rows: list[Row]) -> str:
    """As docs/security.md shows it."""
    lines = [
        "| pods' network | evidence | reported after | hand-overs | tokens given | former owner's | latest after |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        latest = f"{row.latest * 1000:.1f} ms" if row.former else "none"
        lines.append(
            f"| {row.kind} | {'on' if row.evidence else 'off'} | {row.delay * 1000:g} ms | {row.hand_overs} "
            f"| {row.granted} | {row.former} | {latest} |"
        )
    return "\n".join(lines)


def main() -> int:
    rows = asyncio.run(measure(float(sys.argv[1])))
    sys.stdout.write(table(rows) + "\n")
    if len(sys.argv) > 2:
        result = Path(sys.argv[2])
        result.parent.mkdir(parents=True, exist_ok=True)
        result.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
