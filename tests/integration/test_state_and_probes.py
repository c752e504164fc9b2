"""Test of /readyz and /debug/state of the real NMI: named checks, and a sufficient state without secrets."""

import json
import os

from podidentity_sandbox.sandbox import Sandbox
from podidentity_sandbox.settings import Settings
from tests.integration.identity_requests import NODE, Answer, ask, ask_at, run_bound_pod


async def test_the_state_and_the_probes_of_a_running_nmi() -> None:
    async with Sandbox(Settings(namespaces=False, environment=os.environ)) as sandbox:
        port = sandbox.nmis[NODE].probe_port

        async def read(path: str) -> Answer:
            return await ask_at(sandbox, sandbox.contexts[NODE], f"127.0.0.1:{port}", path)

        known, context = await run_bound_pod(sandbox, "shown")
        granted = await ask(sandbox, context)
        assert granted.status == 200, granted.text

        instance = await ask(sandbox, context, path="/metadata/instance?api-version=2021-02-01")
        assert instance.status == 200, instance.text

        ready = await read("/readyz")
        assert ready.status == 200
        note = (
            "(none to loopback: --redirect=none requires this backend; without a redirect NMI listens on "
            "--nmi-listen-address only)"
        )
        assert ready.text == f"[+]active ok\n[+]api server ok\n[+]watches ok\n[+]redirect ok {note}\nready\n"
        state = await read("/debug/state")
        assert state.status == 200
        assert set(state.body) >= {"node", "version", "health", "feed", "broker", "governor", "server", "plumbing"}
        assert state.body["metadata"] == {"entries": 1, "bytes": len(instance.text), "flights": 0}
        assert "default/shown" in json.dumps(state.body["feed"])
        for hidden in (granted.body["access_token"], known.client_id):
            assert hidden not in state.text
