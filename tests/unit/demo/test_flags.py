"""The demo's command line: names and defaults as in the Go implementation's demo, in both spellings, and invalid
values.
"""

import pytest

from podidentity_demo.settings import parse

NAMES = ["--subscriptionid=s", "--clientid=c", "--resourcegroup=g"]


def test_the_defaults_are_those_of_azure_and_the_go_implementation() -> None:
    parsed = parse(NAMES, {})
    assert (parsed.subscription, parsed.client_id, parsed.resource_group) == ("s", "c", "g")
    assert parsed.metadata_service == "http://169.254.169.254"
    assert parsed.resource_manager == "https://management.azure.com"
    assert parsed.resource == "https://management.azure.com/"
    assert (parsed.wait_seconds, parsed.once_seconds, parsed.pod, parsed.proxy) == (20, None, "", "")


def test_a_manifest_for_the_image_up_to_1_7_is_accepted() -> None:
    parsed = parse([*NAMES, "--aad-resourcename=https://vault.azure.net", "--retry-wait-time=5"], {})
    assert (parsed.resource, parsed.wait_seconds) == ("https://vault.azure.net", 5)


def test_a_manifest_for_the_image_of_1_8_is_accepted() -> None:
    renamed = ["--subscription-id=s", "--identity-client-id=c", "--resource-group=g"]
    assert parse([*renamed, "--resource-name=r", "--period=1m30.5s"], {}) == parse(
        [*NAMES, "--aad-resourcename=r", "--retry-wait-time=90.5"], {}
    )


@pytest.mark.parametrize("missing", range(3))
def test_each_name_is_required(missing: int, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(NAMES[:missing] + NAMES[missing + 1 :], {})
    assert ended.value.code == 2
    assert NAMES[missing].partition("=")[0] in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "complaint"),
    [
        ("--clientid=", "is empty"),
        ("--clientid=a\nb", "not printable"),
        ("--clientid=CLIENT_ID", "placeholder"),
        ("--subscriptionid=$(SUBSCRIPTION_ID)", "placeholder"),
        ("--retry-wait-time=soon", "neither a number of seconds nor a duration"),
        ("--retry-wait-time=1x", "neither a number of seconds nor a duration"),
        ("--retry-wait-time=0", "not more than 0"),
        ("--retry-wait-time=nan", "not more than 0"),
        ("--period=25h", "at most 86400 seconds"),
        ("--timeout=-1", "not more than 0"),
    ],
)
def test_an_invalid_value_is_refused_with_advice(flag: str, complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse([*NAMES, flag], {})
    assert ended.value.code == 2
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "meant"), [("0.1", 0.1), ("100s", 100), ("250ms", 0.25), ("24h", 86400), ("1.5m", 90)]
)
def test_times_are_seconds_or_durations(text: str, meant: float) -> None:
    assert parse([*NAMES, f"--period={text}"], {}).wait_seconds == meant


def test_the_manifest_sets_the_pods_name() -> None:
    environ = {"MY_POD_NAME": "demo", "MY_POD_NAMESPACE": "default", "MY_POD_IP": "10.0.0.7"}
    assert parse(NAMES, environ).pod == "default/demo 10.0.0.7"
    assert parse(NAMES, {"MY_POD_NAME": "demo"}).pod == "demo"


@pytest.mark.parametrize(
    ("environ", "proxy"),
    [
        ({"HTTPS_PROXY": "http://proxy.example:3128"}, "proxy.example:3128"),
        ({"https_proxy": "http://user:password@proxy.example:3128/"}, "proxy.example:3128"),
        ({"HTTPS_PROXY": "proxy.example:3128"}, "proxy.example:3128"),
        ({"HTTPS_PROXY": "http://proxy.example:3128", "NO_PROXY": ".azure.com"}, ""),
        ({"HTTPS_PROXY": "http://proxy.example:3128", "NO_PROXY": "169.254.169.254"}, "proxy.example:3128"),
        ({"HTTP_PROXY": "http://proxy.example:3128"}, ""),
    ],
)
def test_arm_requests_use_the_proxy_of_the_environment(environ: dict[str, str], proxy: str) -> None:
    assert parse(NAMES, environ).proxy == proxy
