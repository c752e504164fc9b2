"""A successor takes over from a real NMI, and no request fails."""

import asyncio
import http.client
from pathlib import Path

from podidentity.resources import PODS
from podidentity_sandbox.azure import identity_id
from tests.integration.handovers import PROBE_STATUS, connector, end, logged, sandboxed, sending, served
from tests.integration.identity_requests import NODE, binding, identity, request_held
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
