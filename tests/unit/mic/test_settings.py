"""MIC's command line and environment: names, defaults, and rejected values."""

from collections.abc import Mapping, Sequence

import pytest

from mic.startup.settings import MicSettings, parse
from podidentity.flags import UsageError
from podidentity.settings import flags_of

ENVIRON: Mapping[str, str] = {"MIC_POD_NAMESPACE": "kube-system"}


def test_the_go_implementations_flags_keep_their_names() -> None:
    """The flags of cmd/mic/main.go of the Go implementation."""
    assert {
        "kubeconfig",
        "cloudconfig",
        "forceNamespaced",
        "syncRetryDuration",
        "leader-election-instance",
        "leader-election-namespace",
        "leader-election-name",
        "leader-election-duration",
        "http-probe-port",
        "enableProfile",
        "enableScaleFeatures",
        "createDeleteBatch",
        "clientQps",
        "prometheus-port",
        "immutable-user-msis",
        "config-map-name",
        "enable-type-upgrade",
        "type-upgrade-status-key",
        "custom-user-agent",
        "identity-assignment-reconcile-interval",
        "update-user-msi-max-retry",
        "update-user-msi-retry-interval",
        "version",
    } <= {setting.flag for setting in flags_of(MicSettings)}


def test_a_command_line_of_the_go_implementation_is_accepted() -> None:
    argv = [
        "--cloudconfig=/etc/kubernetes/azure.json",
        "--logtostderr",
        "-v=4",
        "--identity-assignment-reconcile-interval",
        "5m",
        "--immutable-user-msis=AAAA,bbbb",
        "--clientQps=7.5",
        "--syncRetryDuration=1h30m",
    ]
    settings = parse(argv, ENVIRON)
    assert settings.cloud_config == "/etc/kubernetes/azure.json"
    assert (settings.look_seconds, settings.resync_seconds) == (300.0, 5400.0)
    assert settings.immutable_client_ids == ("aaaa", "bbbb")
    assert settings.writes_per_second == 7.5
    assert settings.verbosity == 4


@pytest.mark.parametrize(
    ("argv", "environ", "message"),
    [
        ([], {}, "MIC_POD_NAMESPACE"),
        (["--plan=false"], {}, "MIC_POD_NAMESPACE"),
        (["--http-probe-port=8888"], ENVIRON, "--prometheus-port"),
        (["--createDeleteBatch=0"], ENVIRON, "--createDeleteBatch is 0; it may be 1 to 1000"),
        (["--detach-grace=-1s"], ENVIRON, "--detach-grace is -1s; it may be 0s to 86400s"),
        (["--v=-1"], ENVIRON, "it may be 0 to 2147483647"),
        (["--client-burst=-1"], ENVIRON, "--client-burst"),
        (["--clientQps=fast"], ENVIRON, "--clientQps"),
        (["--leader-election-name=No Name"], ENVIRON, "--leader-election-name"),
        (["--config-map-name=No Name"], ENVIRON, "--config-map-name"),
        (["--type-upgrade-status-key=a/b"], ENVIRON, "--type-upgrade-status-key"),
        (["--arm-api-version=latest"], ENVIRON, "--arm-api-version"),
        (["--custom-user-agent=a\nb"], ENVIRON, "--custom-user-agent"),
        (["--identity-assignment-reconcile-interval=180"], ENVIRON, "180s"),
        (["--startup-taint=a.b/c:NoSchedule"], ENVIRON, "--startup-taint"),
        (["--startup-taint=a.b/c=d"], ENVIRON, "--startup-taint"),
        (["--startup-taint=a.b/c", "--startup-taint-nmi-selector=nmi"], ENVIRON, "--startup-taint-nmi-selector"),
        (["--cloudconfg=x"], ENVIRON, "--cloudconfig"),
        (["--log-format=xml"], ENVIRON, "text, json"),
        ([], {**ENVIRON, "FORCENAMESPACED": "perhaps"}, "FORCENAMESPACED"),
    ],
)
def test_a_bad_setting_is_rejected_in_one_line(argv: Sequence[str], environ: Mapping[str, str], message: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse(argv, environ)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("argv", "burst"), [([], 2000), (["--clientQps=5"], 200), (["--clientQps=5", "--client-burst=1"], 1)]
)
def test_the_default_burst_is_forty_seconds_of_the_rate(argv: Sequence[str], burst: float) -> None:
    assert parse(argv, ENVIRON).writes_at_once == burst


@pytest.mark.parametrize("text", ["true", "True", "1"])
def test_the_environment_can_force_namespaced_mode_whatever_the_flag_says(text: str) -> None:
    assert parse(["--forceNamespaced=false"], {**ENVIRON, "FORCENAMESPACED": text}).force_namespaced


@pytest.mark.parametrize("selector", ["component=nmi", "app.kubernetes.io/component=nmi,k8s-app=aad-pod-id", "nmi="])
def test_a_taint_is_identified_by_its_key_and_nmi_by_its_labels(selector: str) -> None:
    settings = parse(["--startup-taint=a.b/not-ready", f"--startup-taint-nmi-selector={selector}"], ENVIRON)
    assert (settings.startup_taint, settings.nmi_selector) == ("a.b/not-ready", selector)


def test_version_requires_no_other_flag() -> None:
    assert parse(["--version"], {}).version


def test_the_printed_settings_have_flags_and_variables_no_secret_and_redacted_client_ids() -> None:
    given = "--immutable-user-msis=11111111-2222-3333-4444-555555555555,AAAAAAAA-2222-3333-4444-BBBBBBBBBBBB"
    settings = parse([given, "--http-probe-port=81"], {**ENVIRON, "CLIENT_SECRET": "hush"})
    assert "hush" not in repr(settings)
    assert settings.environment == {"CLIENT_SECRET": "hush"}
    assert settings.describe()["environment"] == "***"
    assert settings.describe()["immutable_client_ids"] == "1111…5555,aaaa…bbbb"
    printed = set(settings.text().split())
    assert {"--http-probe-port=81", "--immutable-user-msis=1111…5555,aaaa…bbbb"} <= printed
    assert "MIC_POD_NAMESPACE=" in settings.text()


def test_all_wrong_flags_and_variables_are_reported_together() -> None:
    given = ["--nope", "--http-probe-port=x", "--prometheus-port", "70000", "--clientQps=50"]
    with pytest.raises(UsageError) as wrong:
        parse(given, {"FORCENAMESPACED": "perhaps"})
    for part in (
        "unknown flag --nope",
        "--http-probe-port: 'x' is not a whole number",
        "--prometheus-port is 70000",
        "FORCENAMESPACED='perhaps'",
        "MIC_POD_NAMESPACE is not set",
    ):
        assert part in str(wrong.value)
    assert "clientQps" not in str(wrong.value)
    assert "\n" not in str(wrong.value)


def test_help_shows_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--help"], {})
    printed = " ".join(capsys.readouterr().out.split())
    assert "(default 8080)" in printed
    assert "(default 3m)" in printed
