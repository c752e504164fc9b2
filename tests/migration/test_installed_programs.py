"""Flags and values of an installed Go implementation are read as this version reads them."""

from typing import Any

import pytest

from podidctl.migration.differences import Difference, DifferenceLevel
from podidctl.migration.installed_programs import InstalledProgram, check_programs, check_values, mic_settings

CHARTS_NMI = (
    "--node=$(NODE_NAME)",
    "--http-probe-port=8085",
    "--operation-mode=standard",
    "--MICNamespace=kube-system",
)
CHARTS_MIC = ("--cloudconfig=/etc/kubernetes/azure.json", "--logtostderr")


def nmi(*flags: str, **environ: str) -> InstalledProgram:
    return InstalledProgram("nmi", "DaemonSet kube-system/nmi", "kube-system", (*CHARTS_NMI, *flags), environ)


def mic(*flags: str, namespace: str = "kube-system", **environ: str) -> InstalledProgram:
    return InstalledProgram("mic", "Deployment kube-system/mic", namespace, (*CHARTS_MIC, *flags), environ)


def only(*programs: InstalledProgram) -> Difference:
    (one,) = check_programs(programs)
    return one


def test_the_go_implementations_chart_requires_no_change() -> None:
    both = {"FORCENAMESPACED": "false"}
    assert check_programs([nmi(**both), mic(**both)]) == []


def test_an_unsupported_flag_must_be_removed() -> None:
    one = only(nmi("--host-ip=$(HOST_IP)"))
    assert (one.level, one.about) == (DifferenceLevel.FIX, "DaemonSet kube-system/nmi")
    assert "unknown flag --host-ip" in one.what


@pytest.mark.parametrize(
    ("program", "what"),
    [
        (nmi("--allow-network-plugin-kubenet=true"), "kubenet"),
        (nmi("--metadata-header-required=false"), "--metadata-header-required=false"),
        (mic("--clientQps=5"), "--clientQps=5"),
    ],
)
def test_a_flag_with_a_trade_off_must_be_reviewed(program: InstalledProgram, what: str) -> None:
    one = only(program)
    assert one.level is DifferenceLevel.REVIEW
    assert what in one.what


def test_a_write_rate_above_our_default_requires_no_review() -> None:
    assert check_programs([mic("--clientQps=100")]) == []


def test_an_nmi_that_expects_mic_elsewhere_gets_the_new_location() -> None:
    one = only(nmi(), mic(namespace="identity"))
    assert "MIC runs in identity" in one.what
    assert one.do.startswith("set --MICNamespace=identity")


def test_programs_with_different_namespace_settings_are_reported() -> None:
    one = only(nmi(FORCENAMESPACED="true"), mic())
    assert one.about == "--forceNamespaced"
    assert one.what.startswith("only NMI has it")


def test_the_location_of_locks_and_records_is_read_from_mics_flags() -> None:
    settings = mic_settings([nmi(), mic("--leader-election-namespace=locks")])
    assert settings is not None
    assert (settings.namespace, settings.lease_namespace) == ("kube-system", "locks")
    assert mic_settings([nmi()]) is None
    assert mic_settings([mic("--no-such-flag")]) is None


@pytest.mark.parametrize(
    ("values", "about", "level"),
    [
        ({"nmi": {"tag": "v1.8.17"}}, "value nmi.tag", DifferenceLevel.FIX),
        (
            {"image": {"repository": "mcr.microsoft.com/oss/azure/aad-pod-identity"}},
            "value image.repository",
            DifferenceLevel.FIX,
        ),
        ({"rbac": {"pspEnabled": True}}, "value rbac.pspEnabled", DifferenceLevel.REVIEW),
        ({"azureIdentities": [{"name": "a"}]}, "value azureIdentities", DifferenceLevel.FIX),
        ({"nmi": {"allowNetworkPluginKubenet": True}}, "value nmi.allowNetworkPluginKubenet", DifferenceLevel.REVIEW),
        ({"mic": {"clientQps": 5}}, "value mic.clientQps", DifferenceLevel.REVIEW),
    ],
)
def test_a_value_that_must_be_reviewed_is_reported(values: dict[str, Any], about: str, level: DifferenceLevel) -> None:
    (one,) = check_values(values)
    assert (one.about, one.level) == (about, level)


def test_default_values_of_the_go_implementation_require_no_review() -> None:
    values = {
        "forceNamespaced": "false",
        "rbac": {"enabled": True, "pspEnabled": False},
        "mic": {"clientQps": "", "replicas": 2},
        "nmi": {"allowNetworkPluginKubenet": False, "probePort": "8085"},
        "azureIdentities": None,
    }
    assert check_values(values) == []
