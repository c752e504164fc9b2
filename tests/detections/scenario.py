"""Audit lines that the real NMI writes in a sandbox while pods are granted, refused and exempted."""

import json
import os

from podidentity_sandbox.azure import identity_id
from podidentity_sandbox.sandbox import Sandbox
from podidentity_sandbox.settings import Settings
from tests.detections.engines import Line
from tests.integration.identity_requests import NODE, ask, attach, exception, run_bound_pod, run_pod

OWN_API = "api://orders.example.com"
LOOKALIKE = "https://vault.azure.net.example.com"
VAULT = "https://vault.azure.net"


async def audit_lines_of_a_node() -> list[Line]:
    """Run all programs and return the lines of NMI's decision log.

    The identity of `default/cart` is also used by `kube-public/visitor`. `default/scanner` is refused six times,
    `default/once` once. `default/exempt` and `kube-system/exempt` have an exception.
    """
    settings = Settings(namespaces=False, environment=os.environ, nmi_flags=("--log-format=json",))
    async with Sandbox(settings) as sandbox:
        _, cart = await run_bound_pod(sandbox, "cart")
        visitor = await run_pod(sandbox, "visitor", {"aadpodidbinding": "cart"}, namespace="kube-public")
        for context, resources in ((cart, (VAULT, f"{VAULT}/", OWN_API, LOOKALIKE)), (visitor, (VAULT,))):
            for each in resources:
                granted = await ask(sandbox, context, resource=each)
                assert granted.status == 200, granted.text

        own = sandbox.azure.directory.add_identity(identity_id("of-the-node"))
        attach(sandbox, own)
        for namespace in ("default", "kube-system"):
            await sandbox.cluster.apply(exception("exempt", {"app": "exempt"}, namespace))
            exempt = await run_pod(sandbox, "exempt", {"app": "exempt"}, namespace=namespace)
            assert (await ask(sandbox, exempt, client_id=own.client_id)).status == 200

        scanner = await run_pod(sandbox, "scanner", {})
        for number in range(6):
            assert (await ask(sandbox, scanner, resource=f"https://{number}.example.com")).status == 400
        once = await run_pod(sandbox, "once", {})
        assert (await ask(sandbox, once)).status == 400
        for path in ("/metadata/identity/oauth2/token", "/nothing"):
            assert (await ask(sandbox, once, path=path, headers={})).status in {400, 404}

        log = sandbox.folder / f"nmi-{NODE}.log"
        read = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return [line for line in read if line["logger"] == "nmi.server.decisions"]
