"""values.schema.json contains exactly the values of values.yaml, and helm rejects other values."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tools.chart.rendering import CHART, HELMS, RenderError, render
from tools.chart.values_table import values_of

SCHEMA = json.loads((CHART / "values.schema.json").read_text())
OPEN = {"global"}
"""Values that helm itself adds."""
DEAD = {"installCRDs", "forceNameSpaced"}
"""Values of the Go implementation's older charts that the chart accepts and ignores."""


def schemas(part: Any) -> Iterator[dict[str, Any]]:
    if isinstance(part, dict):
        yield part
        for each in part.values():
            yield from schemas(each)
    elif isinstance(part, list):
        for each in part:
            yield from schemas(each)


def names(schema: dict[str, Any], above: str = "") -> Iterator[str]:
    for name, each in schema["properties"].items():
        if "properties" in each:
            yield from names(each, f"{above}{name}.")
        yield f"{above}{name}"


def test_every_value_is_known() -> None:
    values = {value.name for value in values_of((CHART / "values.yaml").read_text())}
    assert values <= set(names(SCHEMA))


def test_the_schema_has_no_unknown_values() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert set(SCHEMA["properties"]) - OPEN - DEAD == set(values)
    for group in ("mic", "nmi", "rbac", "podMonitor", "serviceMonitor", "networkPolicy", "test", "federated"):
        assert set(SCHEMA["properties"][group]["properties"]) == set(values[group]), group


def test_every_set_of_names_is_closed() -> None:
    assert all(each["additionalProperties"] is False for each in schemas(SCHEMA) if "properties" in each)


# Values that helm must reject, with a part of its error, and similar values that it must accept.
REFUSED = {
    "nmi: {probPort: 8085}": ("probPort", "nmi: {probePort: 8085}"),
    "forceNameSpaced: 'true'": ("forceNameSpaced", "forceNamespaced: 'true'"),
    "rbac: {enable: false}": ("enable", "rbac: {enabled: false}"),
    "rbac: {enabled: 'false'}": ("/rbac/enabled", "rbac: {enabled: 'true'}"),
    "mic: {replicas: two}": ("/mic/replicas", "mic: {replicas: '2'}"),
    "prometheusRule: {runbookBaseURL: wiki}": ("runbookBaseURL", "prometheusRule: {runbookBaseURL: https://wiki/}"),
    "operationMode: Managed": ("/operationMode", "operationMode: managed"),
    "nmi: {probePort: 70000}": ("/nmi/probePort", "nmi: {probePort: 65535}"),
    "nmi: {probePort: http}": ("/nmi/probePort", "nmi: {probePort: '8085'}"),
    "nmi: {routeLocalnet: yes}": ("/nmi/routeLocalnet", "nmi: {routeLocalnet: check}"),
    "nmi: {seccompProfile: runtime/default}": ("seccompProfile", "nmi: {seccompProfile: Unconfined}"),
    "nmi: {extraCapabilities: [cap_sys_admin]}": ("extraCapabilities", "nmi: {extraCapabilities: [DAC_READ_SEARCH]}"),
    "rbac: {secretNamespaces: shop}": ("secretNamespaces", "rbac: {secretNamespaces: [shop]}"),
    "rbac: {secretNamespaces: [Shop]}": ("secretNamespaces", "rbac: {secretNamespaces: [shop-2]}"),
    "rbac: {secretNamespaces: ['*']}": ("secretNamespaces", "rbac: {secretNamespaces: []}"),
    "rbac: {secretNamespaces: [shop, shop]}": ("secretNamespaces", "rbac: {secretNamespaces: null}"),
    "nmi: {failClosed: 'false'}": ("/nmi/failClosed", "nmi: {failClosed: false}"),
    "nmi: {extraArgs: [max-hold=30s]}": ("/nmi/extraArgs", "nmi: {extraArgs: [--max-hold=30s]}"),
    "nmi: {allowedADEndpoints: [http://a/]}": ("/nmi/allowedADEndpoints", "nmi: {allowedADEndpoints: [https://a/]}"),
    "mic: {syncRetryDuration: '3600'}": ("/mic/syncRetryDuration", "mic: {syncRetryDuration: 1h}"),
    "mic: {startupTaint: 'nmi-not-ready:NoSchedule'}": ("/mic/startupTaint", "mic: {startupTaint: a.b/nmi-not-ready}"),
    "mic: {clientQps: 0}": ("/mic/clientQps", "mic: {clientQps: 0.5}"),
    "mic: {leaderElection: {names: a}}": ("names", "mic: {leaderElection: {name: a}}"),
    "mic: {podDisruptionBudget: {minAvailable: 1, maxUnavailable: 1}}": (
        "/mic/podDisruptionBudget",
        "mic: {podDisruptionBudget: {maxUnavailable: 1}}",
    ),
    "azureIdentities: {a: {type: 4, clientID: c, tenantID: t, binding: {name: b, selector: s}}}": (
        "/azureIdentities/a/type",
        "azureIdentities: {a: {type: 3, clientID: c, tenantID: t, binding: {name: b, selector: s}}}",
    ),
    "azureIdentities: {a: {type: 0, clientID: c, resourceID: r}}": (
        "binding",
        "azureIdentities: {a: {type: 0, clientID: c, resourceID: r, binding: {name: b, selector: s}}}",
    ),
}


@pytest.mark.parametrize("helm", HELMS)
@pytest.mark.parametrize("wrong", REFUSED)
def test_wrong_values_are_rejected_and_similar_correct_ones_are_not(wrong: str, helm: str, tmp_path: Path) -> None:
    word, right = REFUSED[wrong]
    values = tmp_path / "values.yaml"
    values.write_text(wrong)
    with pytest.raises(RenderError, match=word):
        render(values, helm=helm)
    if helm == HELMS[0]:
        values.write_text(right)
        assert render(values, helm=helm)


# Values that the templates reject, because a schema could not state the reason.
MISSING = {
    "adminsecret: {cloud: AzurePublicCloud}": "adminsecret.subscriptionID is missing",
    "azureIdentities: {a: {type: 0, clientID: c, binding: {name: b, selector: s}}}": "azureIdentities.a.resourceID is",
    "azureIdentities: {a: {type: 1, clientID: c, binding: {name: b, selector: s}}}": "azureIdentities.a.tenantID is",
    "azureIdentities: {a: {type: 1, clientID: c, tenantID: t, binding: {name: b, selector: s}}}": "clientPassword is",
    "azureIdentities: {a: {type: '3', clientID: c, binding: {name: b, selector: s}}}": "azureIdentities.a.tenantID is",
    "azureIdentities: {a: {type: 1, clientID: c, tenantID: t, clientPassword: hunter2, binding: {name: b, "
    "selector: s}}}": "clientPassword has no name",
    "test: {selector: demo}": "test.subscriptionID is missing",
    "rbac: {pspEnabled: true}": "no PodSecurityPolicy",
    "{operationMode: managed, mic: {startupTaint: a/b}}": "mic.startupTaint is a/b, but managed mode has no MIC",
}


@pytest.mark.parametrize("wrong", MISSING)
def test_an_error_names_the_missing_value(wrong: str, tmp_path: Path) -> None:
    values = tmp_path / "values.yaml"
    values.write_text(wrong)
    with pytest.raises(RenderError, match=MISSING[wrong]) as refused:
        render(values)
    assert "hunter2" not in str(refused.value)
