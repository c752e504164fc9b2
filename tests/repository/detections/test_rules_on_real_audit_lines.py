"""Each shipped rule finds what it describes in the log of the real NMI, and nothing else. So does the schema."""

import asyncio
import json
import os
from datetime import timedelta

import jsonschema
import pytest

from podidentity_sandbox.azure import identity_id
from podidentity_sandbox.sandbox import Sandbox
from podidentity_sandbox.settings import SandboxSettings
from tests.repository.detections.engines import DETECTIONS, Line, earlier, kql_alerts, sigma_alerts
from tests.support.identity_requests import NODE, ask, attach, exception, run_bound_pod, run_pod

pytestmark = pytest.mark.programs
KQL = sorted(path.stem for path in (DETECTIONS / "kql").glob("*.kql"))
ENGINES = (sigma_alerts, kql_alerts)
OWN_API = "api://orders.example.com"
LOOKALIKE = "https://vault.azure.net.example.com"
VAULT = "https://vault.azure.net"


async def audit_lines_of_a_node() -> list[Line]:
    """Run all programs and return the lines of NMI's decision log.

    The identity of `default/cart` is also used by `kube-public/visitor`. `default/scanner` is refused six times,
    `default/once` once. `default/exempt` and `kube-system/exempt` have an exception.
    """
    settings = SandboxSettings(namespaces=False, environment=os.environ, nmi_flags=("--log-format=json",))
    async with Sandbox(settings) as sandbox:
        _, cart = await run_bound_pod(sandbox, "cart")
        visitor = await run_pod(sandbox, "visitor", {"aadpodidbinding": "cart"}, namespace="kube-public")
        for context, resources in ((cart, (VAULT, f"{VAULT}/", OWN_API, LOOKALIKE)), (visitor, (VAULT,))):
            for resource in resources:
                granted = await ask(sandbox, context, resource=resource)
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


@pytest.fixture(scope="module")
def lines() -> list[Line]:
    return asyncio.run(audit_lines_of_a_node())


def by(lines: list[Line], *pods: str) -> list[Line]:
    return [line for line in lines if line["pod"] in pods]


def test_every_line_conforms_to_the_schema(lines: list[Line]) -> None:
    schema = json.loads((DETECTIONS / "audit.schema.json").read_text(encoding="utf-8"))
    for line in lines:
        jsonschema.validate(line, schema)
    assert {line["outcome"] for line in lines} == {"granted", "exempt", "refused"}


def test_a_pod_refused_repeatedly_is_reported_and_one_refused_less_often_is_not(lines: list[Line]) -> None:
    name, scanner = "refused-repeatedly", by(lines, "default/scanner")
    assert [alert["pod"] for alert in sigma_alerts(name, lines)][:1] == ["default/scanner"]
    (alert,) = kql_alerts(name, [*lines, *scanner])
    assert (alert["Pod"], alert["Refusals"]) == ("default/scanner", 12)

    spread = [
        moved for minutes, line in enumerate(scanner) for moved in earlier([line], timedelta(minutes=5 * minutes))
    ]
    for engine in ENGINES:
        assert engine(name, by(lines, "default/once", "default/cart")) == []
        assert engine(name, spread) == []


def test_an_identity_used_from_a_new_namespace_is_reported_and_in_its_usual_ones_it_is_not(lines: list[Line]) -> None:
    name, cart, visitor = "identity-from-new-namespace", by(lines, "default/cart"), by(lines, "kube-public/visitor")
    before = earlier(cart, timedelta(days=3))
    assert {alert["identity"] for alert in sigma_alerts(name, [*before, *visitor])} == {"default/cart"}
    (alert,) = kql_alerts(name, [*before, *visitor])
    assert (alert["Identity"], alert["Namespace"]) == ("default/cart", "kube-public")
    assert json.loads(alert["Pods"]) == ["kube-public/visitor"]

    for engine in ENGINES:
        assert engine(name, [*before, *cart]) == []
    usual = [*cart, *visitor]
    assert kql_alerts(name, [*earlier(usual, timedelta(days=3)), *usual]) == []
    assert kql_alerts(name, cart) == [], "an identity without history"


def test_an_exception_in_use_is_reported_and_granted_tokens_and_exceptions_of_the_system_are_not(
    lines: list[Line],
) -> None:
    name = "exception-in-use"
    assert [alert["pod"] for alert in sigma_alerts(name, lines)] == ["default/exempt"]
    (alert,) = kql_alerts(name, lines)
    assert (alert["Pod"], alert["Node"], alert["Requests"]) == ("default/exempt", "node-0", 1)
    for engine in ENGINES:
        assert engine(name, [line for line in lines if line["pod"] != "default/exempt"]) == []


def test_tokens_for_unusual_audiences_are_reported_and_usual_ones_and_refused_requests_are_not(
    lines: list[Line],
) -> None:
    name, others = "unusual-audience", [line for line in lines if line.get("resource") not in {OWN_API, LOOKALIKE}]
    assert sorted(alert["resource"] for alert in sigma_alerts(name, lines)) == [OWN_API, LOOKALIKE]
    assert sorted(alert["Audience"] for alert in kql_alerts(name, lines)) == [OWN_API, LOOKALIKE]
    assert by(others, "default/cart")
    assert any(line["outcome"] == "refused" for line in others)
    for engine in ENGINES:
        assert engine(name, others) == []


@pytest.mark.parametrize("name", KQL)
@pytest.mark.parametrize(("namespace", "container"), [("shop", "nmi"), ("kube-system", "other")])
def test_lines_that_another_container_prints_are_ignored(
    lines: list[Line], name: str, namespace: str, container: str
) -> None:
    both = [*earlier(by(lines, "default/cart"), timedelta(days=3)), *lines, *lines]
    assert kql_alerts(name, both), "the same lines of NMI are reported"
    assert kql_alerts(name, both, namespace=namespace, container=container) == []
