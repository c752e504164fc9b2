"""Settings from a command line and an environment, and the command `nmi`: exit codes, and one line for each error.

Excluded: spellings of flags (tests/unit/podidentity/flags), and the process (tests/system/local/nmi).
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import msgspec
import pytest

from nmi import cli
from nmi.choices import OperationMode
from nmi.connection_limits import FIRST_BYTE_SECONDS, HEAD_SECONDS, IDLE_SECONDS, SLOTS_MOST, WRITE_SECONDS
from nmi.server.policy import Sizes
from nmi.settings import FORMER_FLAGS, NmiSettings, parse
from podidentity.exits import StartError, ended
from podidentity.flags import UsageError
from podidentity.settings import flags_of, settings_of
from podidentity.version import VERSION
from tests.support.checkout import ROOT

NODE = "--node=n1"


@pytest.mark.parametrize(
    ("args", "name", "value"),
    [
        (["--nmi-listen-address=0.0.0.0"], "listen_address", "0.0.0.0"),
        (["--nmi-port", "1"], "listen_port", 1),
        (["--nmi-port", "65535"], "listen_port", 65535),
        (["--forceNamespaced"], "force_namespaced", True),
        (["--metadata-header-required=false"], "metadata_header_required", False),
        (["--operation-mode=STANDARD"], "operation_mode", "standard"),
        (["--max-hold=1m"], "max_hold_seconds", 60.0),
        (["--drain-timeout=0"], "drain_seconds", 0.0),
        (["--host-token-types="], "host_token_types", frozenset()),
        (["--host-token-types=0, 2"], "host_token_types", frozenset({0, 2})),
        (["--exception-namespaces=a,,b ,"], "exception_namespaces", ("a", "b")),
        (["--allow-metadata-path=/metadata/versions"], "allowed_metadata_paths", ("/metadata/versions",)),
        (["--allowed-ad-endpoints=https://login.example/"], "allowed_ad_endpoints", ("https://login.example/",)),
        (["--route-localnet=set"], "route_localnet", "set"),
        (["--redirect=none", "--metadata-ip=127.0.0.1"], "redirect", "none"),
        (["--redirect=none", "--metadata-ip=127.0.0.1"], "metadata_ip", "127.0.0.1"),
        (["--metadata-port=1080"], "metadata_port", 1080),
        (["--fail-closed", "--keep-iptables-rules"], "fail_closed", True),
        (["--fail-closed", "--keep-iptables-rules"], "keep_redirect", True),
        (["--kubelet-config=/x"], "kubelet_config", Path("/x")),
        (["--federated-identities"], "federated_identities", True),
        (["--federated-audience=api://x"], "federated_audience", "api://x"),
        (["--custom-user-agent=me/1.0 (x)"], "custom_user_agent", "me/1.0 (x)"),
        (["-v", "4"], "verbosity", 4),
        (["--log-format=json"], "log_format", "json"),
        (["--logtostderr"], "log_to_stderr", True),
        (["--enableScaleFeatures=true"], "scale_features", True),
    ],
)
def test_a_flag_sets_its_setting(args: list[str], name: str, value: object) -> None:
    assert getattr(parse([NODE, *args], {}), name) == value


def test_a_flag_wins_over_the_environment_and_the_environment_over_the_default() -> None:
    environ = {"KUBECONFIG": "/from/environ"}
    assert parse([NODE], {}).kubeconfig == ""
    assert parse([NODE], environ).kubeconfig == "/from/environ"
    assert parse([NODE, "--kubeconfig=/from/flag"], environ).kubeconfig == "/from/flag"
    assert parse([NODE, "--kubeconfig="], environ).kubeconfig == ""


@pytest.mark.parametrize(
    ("text", "on"), [("true", True), ("TRUE", True), ("1", True), ("", False), ("false", False), ("0", False)]
)
def test_forcenamespaced_in_the_environment_overrides_the_flag(text: str, *, on: bool) -> None:
    # reference: cmd/nmi/main.go, the flag or the environment
    assert parse([NODE], {"FORCENAMESPACED": text}).force_namespaced is on
    assert parse([NODE, "--forceNamespaced=false"], {"FORCENAMESPACED": text}).force_namespaced is on


def test_addresses_and_the_cloud_description_are_read_from_the_environment() -> None:
    environ = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "443", "OTHER": "x"}
    assert parse([NODE], environ | {"NODE_IP": "10.224.0.4"}).node_ip == "10.224.0.4"
    assert dict(parse([NODE], environ).cluster_environment) == {k: environ[k] for k in list(environ)[:2]}
    assert dict(parse([NODE], {}).cluster_environment) == {}
    file = "/etc/cloud.json"
    assert parse([NODE], {"AZURE_ENVIRONMENT_FILEPATH": file}).azure_environment_file == Path(file)


@pytest.mark.parametrize("name", ["n", "aks-pool-12-vmss00000a", "ip-10-0-0-1.eu.compute.internal", "n" * 253])
def test_every_valid_node_name_is_accepted(name: str) -> None:
    assert parse([f"--node={name}"], {}).node_name == name


@pytest.mark.parametrize("mode", ["managed", "Managed", "MANAGED"])
def test_managed_mode_is_accepted_in_any_case_with_namespaced_identities(mode: str) -> None:
    given: list[tuple[list[str], dict[str, str]]] = [(["--forceNamespaced"], {}), ([], {"FORCENAMESPACED": "true"})]
    for args, environ in given:
        assert parse([NODE, f"--operation-mode={mode}", *args], environ).operation_mode is OperationMode.MANAGED


@pytest.mark.parametrize("names", [("HTTPS_PROXY", "NO_PROXY"), ("https_proxy", "no_proxy")])
def test_the_proxy_to_azure_comes_from_the_environment_and_its_password_is_not_shown(names: tuple[str, str]) -> None:
    url = "http://user:pass%40word@proxy.example:3128"
    settings = parse([NODE], dict(zip(names, (url, "a.example,b.example"), strict=True)))
    assert (settings.https_proxy, settings.no_proxy) == (url, "a.example,b.example")
    assert settings.describe()["https_proxy"] == "***"
    assert "pass%40word" not in f"{settings.text()} {settings}"
    assert parse([NODE], {"HTTP_PROXY": url, "ALL_PROXY": url}).https_proxy == ""


def test_the_first_variable_with_a_value_counts() -> None:
    first, second = "http://first.example:1", "http://second.example:1"
    assert parse([NODE], {"HTTPS_PROXY": first, "https_proxy": second}).https_proxy == first
    assert parse([NODE], {"HTTPS_PROXY": "", "https_proxy": second}).https_proxy == second


def test_log_lines_begin_with_what_the_operator_sets() -> None:
    # They are cut at their end.
    text = parse([NODE, "--nmi-port=1"], {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}).text()
    assert text == f"{NODE} --nmi-port=1 KUBERNETES_SERVICE_HOST=10.0.0.1"


@pytest.mark.parametrize("url", ["proxy.example:3128", "http://10.1.2.3", "https://proxy.example/", "http://[::1]:80"])
def test_a_proxy_has_several_spellings(url: str) -> None:
    assert parse([NODE], {"HTTPS_PROXY": url}).https_proxy == url


@pytest.mark.parametrize(
    "url", ["socks5://word.example:1", "http://", "http://word@", "http://a word", "http://word:x"]
)
def test_an_invalid_proxy_is_rejected_without_being_shown(url: str) -> None:
    with pytest.raises(UsageError, match="HTTPS_PROXY") as refused:
        parse([NODE], {"HTTPS_PROXY": url})
    assert "word" not in str(refused.value)


@pytest.mark.parametrize(
    ("address", "target"), [("0.0.0.0", "127.0.0.1"), ("127.0.0.1", "127.0.0.1"), ("10.1.2.3", "10.1.2.3")]
)
def test_the_redirect_targets_an_address_of_the_listener(address: str, target: str) -> None:
    assert parse([NODE, f"--nmi-listen-address={address}", "--nmi-port=99"], {}).redirect_destination == (target, 99)


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        ([], "--node is missing"),
        (["--node="], "--node is missing"),
        ([NODE, "--nmi-listen-address=::1"], "--nmi-listen-address is '::1'; it must be an IPv4 address"),
        ([NODE, "--nmi-listen-address=localhost"], "must be an IPv4 address"),
        ([NODE, "--metadata-ip=169.254.169.256"], "--metadata-ip is '169.254.169.256'; it must be an IPv4 address"),
        ([NODE, "--metadata-ip=169.254.169.254/32"], "must be an IPv4 address"),
        ([NODE, "--nmi-port=0"], "--nmi-port is 0; ports are 1 to 65535"),
        ([NODE, "--nmi-port=65536"], "--nmi-port is 65536; ports are 1 to 65535"),
        ([NODE, "--metadata-port=-1"], "--metadata-port is -1"),
        ([NODE, "--nmi-port=9090"], "--nmi-port and --prometheus-port are both 9090"),
        ([NODE, "--http-probe-port=9090"], "--http-probe-port and --prometheus-port are both 9090"),
        ([NODE, "--operation-mode=managed"], "--operation-mode=managed needs --forceNamespaced"),
        ([NODE, "--operation-mode=other"], "--operation-mode: 'other' is none of standard, managed"),
        ([NODE, "--ipt-update-interval-sec=0"], "--ipt-update-interval-sec is 0; it may be 1 to 86400"),
        ([NODE, "--find-identity-retry-interval=0"], "--find-identity-retry-interval is 0"),
        ([NODE, "--retry-attempts-for-created=-1"], "--retry-attempts-for-created is -1"),
        ([NODE, "--max-hold=-1s"], "--max-hold is -1; it may be 1 to 600"),
        ([NODE, "--max-hold=0"], "--max-hold is 0; it may be 1 to 600"),
        ([NODE, "--max-connections-per-pod=1000001"], "-per-pod is 1000001; it may be 0 to 1000000"),
        (["--node=$(NODE_NAME)"], "--node is '$(NODE_NAME)', not a valid node name"),
        (["--node=a,metadata.name=b"], "not a valid node name"),
        (["--node=" + "n" * 254], "not a valid node name"),
        ([NODE, "--max-hold=45"], "--max-hold: '45' lacks a unit; write 45s"),
        ([NODE, "--host-token-types=3"], "--host-token-types has 3; it may hold 0, 1 and 2 only"),
        ([NODE, "--host-token-types=a"], "--host-token-types: 'a' is not a whole number"),
        ([NODE, "--metadata-ip=127.0.0.1"], "the redirect would target itself"),
        ([NODE, "--redirect-target=node", "--redirect=none"], "--redirect-target=node needs a redirect"),
        ([NODE, "--redirect-target=node", "--nmi-listen-address=0.0.0.0"], "and a listener on loopback"),
        ([NODE, "--redirect-target=node", "--nmi-listen-address=10.0.0.4"], "and a listener on loopback"),
        ([NODE, "--require-redirected", "--redirect=cilium"], "--require-redirected would refuse every request"),
        ([NODE, "--fail-closed", "--redirect=none"], "--fail-closed needs a redirect by rules"),
        ([NODE, "--allow-metadata-path=/metadata/identity/info"], "which holds the node's own tokens"),
        ([NODE, "--allow-metadata-path=/Metadata/IDENTITY"], "which holds the node's own tokens"),
        ([NODE, "--allow-metadata-path=/metadata"], "which holds the node's own tokens"),
        ([NODE, "--allow-metadata-path=/"], "which holds the node's own tokens"),
        ([NODE, "--allow-metadata-path=/metadata/x/../identity"], "write a plain path"),
        ([NODE, "--allow-metadata-path=/metadata/%69dentity"], "write a plain path"),
        ([NODE, "--allow-metadata-path=metadata/versions"], "write a plain path"),
        ([NODE, "--allowed-ad-endpoints=http://login.example/"], "write it as https://host/"),
        ([NODE, "--federated-audience="], "write it as the federated credentials in Azure have it"),
        ([NODE, "--federated-audience=a b"], "write it as the federated credentials in Azure have it"),
        ([NODE, "--custom-user-agent=a\r\nb: c"], "--custom-user-agent must be printable ASCII"),
        ([NODE, "--custom-user-agent=" + "a" * 201], "at most 200 characters"),
        ([NODE, "--v=-1"], "--v is -1"),
        ([NODE, "--logtostderr=false"], "logs go to stderr only"),
    ],
)
def test_contradictory_settings_are_rejected_in_one_line_that_names_the_change(args: list[str], sentence: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse(args, {})
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_ambiguous_forcenamespaced_is_rejected_and_not_ignored() -> None:
    with pytest.raises(UsageError, match="FORCENAMESPACED='yes'; set it to true or false"):
        parse([NODE], {"FORCENAMESPACED": "yes"})


@pytest.mark.parametrize("flag", ["--cleanup", "--version"])
def test_cleanup_and_version_require_no_node(flag: str) -> None:
    assert parse([flag], {}).node_name == ""


def test_the_settings_report_exactly_the_changed_values() -> None:
    description = parse([NODE, "--host-token-types=2,0", "--nmi-port=99"], {}).describe()
    assert description == {"node_name": "n1", "host_token_types": "0,2", "listen_port": "99"}


def test_settings_created_without_a_command_line_are_validated_too() -> None:
    with pytest.raises(UsageError, match="ports are 1 to 65535"):
        NmiSettings(node_name="n1", listen_port=0)


def test_every_field_has_one_source_and_no_flag_has_two_fields() -> None:
    proxy = {"token_proxy", "token_proxy_server_name", "token_proxy_ca_file", "token_proxy_ca_data"}
    others = {"azure_environment_file", "https_proxy", "no_proxy", "node_ip", "service_host", "service_port"}
    assert {setting.name for setting in settings_of(NmiSettings)} == set(NmiSettings.__struct_fields__) - {
        "former_flags"
    }
    assert {setting.name for setting in settings_of(NmiSettings) if not setting.flag} == {*proxy, *others}
    assert all(setting.env for setting in settings_of(NmiSettings) if not setting.flag)
    assert len({setting.flag for setting in flags_of(NmiSettings)}) == len(flags_of(NmiSettings))


def test_a_former_flag_is_accepted_with_any_value_and_changes_no_setting() -> None:
    usual = parse([NODE], {})
    for flag in FORMER_FLAGS:
        for given in ([f"--{flag}=1"], [f"-{flag}", "5s"], [f"--{flag}="], [f"--{flag}=1", f"--{flag}=2"]):
            settings = parse([NODE, *given], {})
            assert settings.former_flags == (flag,)
            assert msgspec.structs.replace(settings, former_flags=()) == usual
            assert settings.describe() == usual.describe()
    assert FORMER_FLAGS.keys().isdisjoint(setting.flag for setting in flags_of(NmiSettings))


def test_the_texts_about_former_flags_state_the_constants() -> None:
    sizes = Sizes()
    assert {flag: [int(number) for number in re.findall(r"\d+", text)] for flag, text in FORMER_FLAGS.items()} == {
        "max-connections": [SLOTS_MOST],
        "max-connection-bytes": [],
        "max-header-fields": [sizes.fields],
        "max-target-bytes": [sizes.target_bytes],
        "max-body-bytes": [sizes.body_bytes],
        "first-byte-timeout": [FIRST_BYTE_SECONDS],
        "head-timeout": [HEAD_SECONDS],
        "idle-timeout": [IDLE_SECONDS],
        "write-timeout": [WRITE_SECONDS],
    }


def test_the_general_lane_accepts_all_that_the_fast_lane_accepts() -> None:
    maxima = dict(re.findall(r"^    (\w+_MAX) = (\d+)", (ROOT / "_native" / "scan.pxd").read_text(), re.MULTILINE))
    (head_bytes,) = (setting.range for setting in settings_of(NmiSettings) if setting.name == "max_head_bytes")
    assert head_bytes is not None
    assert head_bytes.least >= int(maxima["HEAD_MAX"])
    assert Sizes().fields >= int(maxima["FIELDS_MAX"])
    assert Sizes().target_bytes >= int(maxima["QUERY_MAX"]) + len("/metadata/identity/oauth2/token?")


# The command.


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr() == (f"nmi {VERSION}\n", "")


def test_help_names_every_flag_and_exits_with_0(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        cli.main(["--help"])
    assert exited.value.code == 0
    assert "--forceNamespaced" in capsys.readouterr().out


def raising(error: BaseException) -> Callable[[], NoReturn]:
    def work() -> NoReturn:
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (StartError("do this\nthen that"), 1, "nmi: do this then that\n"),
        (ExceptionGroup("", [ExceptionGroup("", [StartError("do this")])]), 1, "nmi: do this\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
    ids=["alone", "out of task groups", "Ctrl-C"],
)
def test_an_expected_error_is_one_line_and_its_exit_code(
    error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended("nmi", raising(error)) == code
    assert capsys.readouterr() == ("", line)


def test_an_unexpected_exception_is_not_hidden() -> None:
    with pytest.raises(ExceptionGroup):
        ended("nmi", raising(ExceptionGroup("tasks", [StartError("x"), ZeroDivisionError()])))
