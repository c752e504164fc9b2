"""A successor binds the ports that its predecessor does not pass."""

import os
from dataclasses import replace
from pathlib import Path

from podidentity_sandbox.command_lines import ProgramPorts
from podidentity_sandbox.sandbox import Sandbox
from podidentity_sandbox.serving import free_ports
from podidentity_sandbox.settings import Settings
from tests.integration.handovers import connector, end, logged, sandboxed, sending, served, signal_given
from tests.integration.identity_requests import NODE


async def test_without_a_handover_socket_of_the_former_nmi_the_next_one_waits_for_its_ports(directory: Path) -> None:
    async with Sandbox(Settings(namespaces=False, environment=os.environ)) as sandbox:
        former = sandbox.nmis[NODE].program
        flags = [f"--handover-socket={directory / 'nmi.sock'}", f"--start-signal={directory / 'started'}"]
        sandbox.settings = replace(sandbox.settings, nmi_flags=flags)
        await sandbox.start_nmi(NODE)
        await logged(sandbox, "a port is in use", 1)
        # Otherwise a rollout would never end the former NMI.
        await signal_given(str(directory / "started"))
        assert await end(former) == 0
        await sandbox.nmi_active(NODE)
        await logged(sandbox, "nmi active", 2)
        text = (sandbox.folder / f"nmi-{NODE}.log").read_text()
        assert text.count("a port is in use") == 1


async def test_with_other_ports_the_successor_binds_them_itself(directory: Path) -> None:
    async with sandboxed(directory) as sandbox:
        former = sandbox.nmis[NODE]
        sandbox._ports[NODE] = ProgramPorts(*free_ports(3))
        await sandbox.start_nmi(NODE)
        await logged(sandbox, "this NMI has taken over", 1)
        await sandbox.nmi_active(NODE)
        with sending(connector(sandbox)) as clients:
            await served(clients, 10)
            assert await end(former.program) == 0
            await served(clients)
        assert clients.failures == []
