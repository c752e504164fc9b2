"""A successor that ends before the former NMI does, which serves again or still."""

import asyncio
import signal
import threading
from pathlib import Path

from tests.integration.handovers import Clients, connector, end, logged, sandboxed, sending, served
from tests.integration.identity_requests import NODE
from tests.integration.test_nmi_drains import PATH


async def test_sigterm_of_a_successor_that_is_not_ready_changes_nothing(directory: Path) -> None:
    async with sandboxed(directory) as sandbox:
        nmi = sandbox.nmis[NODE].program
        with sending(connector(sandbox)) as clients:
            await sandbox.start_nmi(NODE)
            await logged(sandbox, "a successor of this NMI synchronises", 1)
            await end(sandbox.nmis[NODE].program)
            await served(clients)
        assert clients.failures == []
        assert await end(nmi) == 0


async def test_the_former_nmi_serves_again_when_its_successor_is_killed(directory: Path) -> None:
    async with sandboxed(directory) as sandbox:
        nmi = sandbox.nmis[NODE]
        await sandbox.start_nmi(NODE)
        await logged(sandbox, "this NMI has taken over", 1)
        await end(sandbox.nmis[NODE].program, signal.SIGKILL)
        await logged(sandbox, "NMI serves again", 1)
        with sending(connector(sandbox)) as clients:
            await served(clients, 10)
            # The next start of the killed program is just another successor.
            await sandbox.start_nmi(NODE)
            await logged(sandbox, "this NMI has taken over", 2)
            assert await end(nmi.program) == 0
            await served(clients)
        assert clients.failures == []


async def test_a_successor_that_stops_gives_back_to_the_former_nmi(directory: Path) -> None:
    async with sandboxed(directory) as sandbox:
        nmi = sandbox.nmis[NODE].program
        await sandbox.start_nmi(NODE)
        await logged(sandbox, "this NMI has taken over", 1)
        clients = Clients()
        thread = threading.Thread(target=clients.run, args=(connector(sandbox), PATH), kwargs={"keep": False})
        thread.start()
        assert await end(sandbox.nmis[NODE].program) == 0
        await served(clients)
        clients.stop.set()
        await asyncio.to_thread(thread.join)
        assert clients.failures == []
        assert await end(nmi) == 0
