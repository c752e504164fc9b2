"""A successor takes over from a real NMI, and no request fails."""

import asyncio
import http.client
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from nmi.handover.start_signal import is_given
from podidentity.resources import PODS
from podidentity_sandbox.azure import identity_id
from podidentity_sandbox.sandbox import Sandbox
from podidentity_sandbox.settings import Settings
from tests.integration.continuous_client import asking
from tests.integration.handovers import PROBE_STATUS, connector, end, logged, sandboxed, sending, served, signal_given
from tests.integration.identity_requests import NODE, binding, identity, request_held
from tests.integration.node_tables import JUMP, saved
from tests.integration.test_nmi_drains import PATH, POD
from tests.support.waiting import until


async def test_no_request_fails_during_ten_handovers(directory: Path) -> None:
    async with sandboxed(directory) as sandbox:
        with sending(connector(sandbox)) as clients:
            for number in range(10):
                former = sandbox.nmis[NODE].program
                await sandbox.start_nmi(NODE)
                await logged(sandbox, "this NMI has taken over", number + 1)
                assert await end(former) == 0
            await served(clients)
        assert clients.failures == []
        assert set(clients.statuses) == {str(PROBE_STATUS)}


async def test_the_start_signal_follows_the_takeover(directory: Path) -> None:
    async with sandboxed(directory) as sandbox:
        signal_path = str(directory / "started")
        former = sandbox.nmis[NODE].program
        sandbox.settings = replace(
            sandbox.settings, nmi_flags=[*sandbox.settings.nmi_flags, f"--start-signal={signal_path}"]
        )
        former.signal(signal.SIGSTOP)  # shorter than a step of the handover may take
        await sandbox.start_nmi(NODE)
        await asyncio.sleep(3)
        assert not is_given(signal_path)
        former.signal(signal.SIGCONT)
        await logged(sandbox, "this NMI has taken over", 1)
        await signal_given(signal_path)
        assert await end(former) == 0


async def test_sigterm_while_a_successor_synchronises_waits_for_it(directory: Path) -> None:
    async with sandboxed(directory) as sandbox:
        nmi = sandbox.nmis[NODE].program
        with sending(connector(sandbox)) as clients:
            await sandbox.start_nmi(NODE)
            await logged(sandbox, "a successor of this NMI synchronises", 1)
            assert await end(nmi) == 0
            await served(clients)
        assert clients.failures == []


async def test_silent_and_kept_connections_survive_a_handover_and_its_return(directory: Path) -> None:
    # By default NMI closes these connections after ten seconds, and the start of its successor may take as long.
    async with sandboxed(directory, "--first-byte-timeout=60s", "--head-timeout=60s") as sandbox:
        nmi = sandbox.nmis[NODE].program

        def connections() -> dict[str, http.client.HTTPConnection]:
            opened = {each: connector(sandbox)() for each in ("silent", "kept", "half")}
            for each in opened.values():
                each.connect()
            opened["kept"].request("GET", PATH)
            opened["kept"].getresponse().read()
            opened["half"].send(f"GET {PATH} HT".encode())
            return opened

        def answered(opened: dict[str, http.client.HTTPConnection]) -> None:
            for name in ("silent", "kept"):
                opened[name].request("GET", PATH)
                answer = opened[name].getresponse()
                answer.read()
                assert answer.status == PROBE_STATUS, name
            opened["half"].send(b"TP/1.1\r\nHost: a\r\n\r\n")
            answer = http.client.HTTPResponse(opened["half"].sock, method="GET")
            answer.begin()
            answer.read()
            assert answer.status == PROBE_STATUS, "half"
            for each in opened.values():
                each.close()

        former = await asyncio.to_thread(connections)
        await sandbox.start_nmi(NODE)
        await logged(sandbox, "this NMI has taken over", 1)
        await asyncio.to_thread(answered, former)
        latter = await asyncio.to_thread(connections)
        ended = asyncio.create_task(end(sandbox.nmis[NODE].program))
        await logged(sandbox, "the former NMI serves this node again", 1)
        await asyncio.sleep(0.2)  # the successor stops
        await asyncio.to_thread(answered, latter)
        assert await ended == 0
        assert await end(nmi) == 0


async def test_a_held_request_is_answered_by_the_former_nmi(directory: Path) -> None:
    async with sandboxed(directory) as sandbox:
        await sandbox.cluster.apply(POD)
        address = ""

        async def has_address() -> bool:
            nonlocal address
            address = (await sandbox.cluster.client.get(PODS, "default", "waiting")).status.pod_ip
            return bool(address)

        await until(has_address)
        former = sandbox.nmis[NODE].program
        connection = connector(sandbox, address)()
        connection.request("GET", PATH, headers={"Metadata": "true"})
        await request_held(sandbox)
        await sandbox.start_nmi(NODE)
        await logged(sandbox, "this NMI has taken over", 1)
        ended = asyncio.create_task(end(former))
        known = sandbox.azure.directory.add_identity(identity_id("late"))
        await sandbox.cluster.apply(identity("late", type=0, resourceID=known.resource_id, clientID=known.client_id))
        await sandbox.cluster.apply(binding("late", "nothing-yet"))
        answer = await asyncio.to_thread(connection.getresponse)
        body = await asyncio.to_thread(answer.read)
        assert answer.status == 200, body
        connection.close()
        assert await ended == 0


@pytest.mark.root
async def test_no_request_reaches_imds_during_handovers_and_the_last_nmi_removes_the_rule(directory: Path) -> None:
    flags = [f"--handover-socket={directory / 'nmi.sock'}", "--require-redirected"]
    async with (
        Sandbox(Settings(namespaces=True, environment=os.environ, nmi_flags=flags)) as sandbox,
        asking(sandbox) as asker,
    ):
        for number in range(5):
            former = sandbox.nmis[NODE].program
            await sandbox.start_nmi(NODE)
            await logged(sandbox, "this NMI has taken over", number + 1)
            assert saved(sandbox).count(JUMP) == 1
            assert await end(former) == 0
            assert saved(sandbox).count(JUMP) == 1
        # A rollout that is undone: the successor stops, and the former NMI serves again.
        former = sandbox.nmis[NODE].program
        await sandbox.start_nmi(NODE)
        await logged(sandbox, "this NMI has taken over", 6)
        assert await end(sandbox.nmis[NODE].program) == 0
        await asker.tokens_flow()
        assert saved(sandbox).count(JUMP) == 1
        assert asker.reached_imds == 0
        assert {answer.outcome for answer in asker.answers} == {"200"}
        assert await end(former) == 0
        assert JUMP not in saved(sandbox)
