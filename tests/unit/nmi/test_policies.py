"""The conversion of settings into policies and limits; an unusable setting ends the start with one line."""

import json
from pathlib import Path
from typing import Any

import pytest

from nmi.connection_limits import HEAD_SECONDS, connection_limits, excess
from nmi.identity.decide import DecisionPolicy
from nmi.policies import decision_policy, server_policy, sign_in_policy, sign_in_trust
from nmi.settings import NmiSettings, parse
from nmi.tokens.source import PolicyError
from podidentity.exits import StartError
from podidentity.resources import AzureIdentity, AzureIdentitySpec, Meta, SecretReference


def test_reading_stops_before_the_lane_would_cut_off_a_connection_with_pipelined_requests() -> None:
    assert server_policy(parse(["--node=n1"], {})).pipeline_seconds < HEAD_SECONDS


def test_every_setting_about_grants_reaches_the_decision_package() -> None:
    given = [
        "--forceNamespaced",
        "--retry-attempts-for-created=3",
        "--retry-attempts-for-assigned=2",
        "--find-identity-retry-interval=7",
        "--max-hold=30s",
        "--host-token-types=1",
        "--operation-mode=managed",
    ]
    assert decision_policy(parse(["--node=n1", *given], {})) == DecisionPolicy(
        force_namespaced=True,
        created_attempts=3,
        assigned_attempts=2,
        interval_seconds=7.0,
        max_hold_seconds=30.0,
        host_token_types=frozenset((1,)),
        managed=True,
    )
    assert decision_policy(parse(["--node=n1"], {})) == DecisionPolicy(host_token_types=frozenset())


MIB = 1 << 20


@pytest.mark.parametrize(
    ("limit", "limits", "memory", "buffers"),
    [
        (None, (8192, 512), 512 * MIB, (16384, 65536)),
        (4096 * MIB, (8192, 512), 1024 * MIB, (16384, 65536)),
        (512 * MIB, (8192, 512), 128 * MIB, (4096, 8192)),
        (256 * MIB, (4096, 256), 64 * MIB, (4096, 8192)),
        (64 * MIB, (1024, 256), 16 * MIB, (4096, 8192)),
        (MIB, (512, 256), 8 * MIB, (4096, 8192)),
    ],
)
def test_the_limits_follow_the_memory_limit(
    limit: int | None, limits: tuple[int, int], memory: int, buffers: tuple[int, int]
) -> None:
    chosen = connection_limits(NmiSettings(node_name="n"), limit)
    assert (chosen.connections, chosen.connections_per_peer) == limits
    assert chosen.memory_bytes == memory
    assert (chosen.receive_bytes, chosen.send_bytes) == buffers
    assert excess(chosen) == ""


def test_the_flag_takes_precedence_and_a_contradiction_is_named() -> None:
    chosen = connection_limits(NmiSettings(node_name="n", max_connections_per_pod=300), 512 * MIB)
    assert (chosen.connections, chosen.connections_per_peer, excess(chosen)) == (8192, 300, "")

    chosen = connection_limits(NmiSettings(node_name="n", max_connections_per_pod=5000), 64 * MIB)
    assert (chosen.connections, chosen.connections_per_peer) == (5000, 5000)
    assert excess(chosen).startswith("connections may be 5000, and 1024 fit the 16777216 bytes")
    assert excess(chosen).endswith("or lower --max-connections-per-pod")


NODE = "--node=n1"


def authority(args: list[str], environ: dict[str, str], **changed: Any) -> str:
    spec = AzureIdentitySpec(
        type=1,
        client_id="c",
        tenant_id="t",
        client_password=SecretReference(name="sp", namespace=changed.pop("namespace", "ns")),
        **changed,
    )
    identity = AzureIdentity(metadata=Meta(name="id", namespace="ns"), spec=spec)
    return sign_in_policy(parse([NODE, *args], environ)).application(identity).authority.url


def test_the_cloud_of_the_environment_is_the_default_and_the_public_cloud_otherwise(tmp_path: Path) -> None:
    file = tmp_path / "stack.json"
    urls = {"activeDirectoryEndpoint": "https://login.stack.example/", "resourceManagerEndpoint": "https://arm.example"}
    file.write_text(json.dumps(urls))
    assert authority([], {}) == "https://login.microsoftonline.com"
    assert authority([], {"AZURE_ENVIRONMENT_FILEPATH": str(file)}) == "https://login.stack.example"


def test_each_flag_permits_what_it_names() -> None:
    with pytest.raises(PolicyError):
        authority([], {}, ad_endpoint="https://mine.example")
    allowed = ["--allowed-ad-endpoints=https://mine.example/"]
    assert authority(allowed, {}, ad_endpoint="https://mine.example") == "https://mine.example"
    with pytest.raises(PolicyError):
        authority(allowed, {}, namespace="other")
    assert authority(["--allow-cross-namespace-secrets"], {}, namespace="other")


def test_an_unusable_cloud_description_ends_the_start(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="AZURE_ENVIRONMENT_FILEPATH"):
        sign_in_policy(parse([NODE], {"AZURE_ENVIRONMENT_FILEPATH": str(tmp_path / "nowhere.json")}))
    file = tmp_path / "odd.json"
    urls = {"activeDirectoryEndpoint": "https://a b.example/?x", "resourceManagerEndpoint": "https://arm.example"}
    file.write_text(json.dumps(urls))
    with pytest.raises(StartError, match="https://host/"):
        sign_in_policy(parse([NODE], {"AZURE_ENVIRONMENT_FILEPATH": str(file)}))


def test_an_unusable_ca_bundle_ends_the_start(tmp_path: Path) -> None:
    file = tmp_path / "ca.crt"
    settings = parse([NODE, f"--ca-bundle={file}"], {})
    with pytest.raises(StartError, match=r"cannot read --ca-bundle .*; check the name and the key"):
        sign_in_trust(settings)
    file.write_text("nothing")
    with pytest.raises(StartError, match="contains no certificate; write PEM certificates"):
        sign_in_trust(settings)
    assert sign_in_trust(parse([NODE], {})) is None
