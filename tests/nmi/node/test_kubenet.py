"""Nodes with the kubenet network plugin. Excluded: how the flags get their values (tests/nmi/settings)."""

import logging
from pathlib import Path

import pytest

from nmi.flag_table import RedirectMode
from nmi.node import kubenet
from nmi.node.traffic_redirect import TrafficRedirect
from nmi.settings import Settings
from podidentity.exits import StartError

KUBENET = "KUBELET_CONFIG=\nKUBELET_FLAGS=--cgroup-driver=systemd --network-plugin=kubenet --v=2\n"


@pytest.mark.parametrize(
    ("text", "is_kubenet"),
    [
        (KUBENET, True),
        ("--network-plugin kubenet", True),
        ('FLAGS="--network-plugin=kubenet"', True),
        ('--network-plugin="kubenet"', True),
        ("-network-plugin=kubenet", True),
        ("--network-plugin=cni", False),
        ("--network-plugin=kubenet2", False),
        ("--network-plugin-mtu=1500 kubenet", False),
        ("# --network-plugin=kubenet", False),
        ("", False),
    ],
)
def test_kubenet_is_recognised_in_the_kubelets_flags(text: str, is_kubenet: bool) -> None:
    assert kubenet.names_kubenet(text) is is_kubenet


def test_a_node_with_kubenet_is_rejected_and_the_error_names_the_flag_to_accept_it(tmp_path: Path) -> None:
    config = tmp_path / "kubelet"
    config.write_text(KUBENET)
    with pytest.raises(StartError, match="--allow-network-plugin-kubenet"):
        kubenet.check(config, allowed=False)


@pytest.mark.parametrize("redirect", RedirectMode)
async def test_nmi_does_not_start_there_whatever_redirects_to_it(redirect: RedirectMode, tmp_path: Path) -> None:
    config = tmp_path / "kubelet"
    config.write_text(KUBENET)
    settings = Settings(node_name="n", redirect=redirect, kubelet_config=config)
    with pytest.raises(StartError, match="--allow-network-plugin-kubenet"):
        await TrafficRedirect(settings, "10.244.0.9").prepare()


def test_a_flag_accepts_kubenet(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = tmp_path / "kubelet"
    config.write_text(KUBENET)
    kubenet.check(config, allowed=True)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_a_missing_configuration_is_not_fatal(tmp_path: Path) -> None:
    kubenet.check(tmp_path / "none", allowed=False)
    kubenet.check(tmp_path, allowed=False)  # a directory cannot be read either


def test_a_configuration_that_is_not_text_is_ignored(tmp_path: Path) -> None:
    config = tmp_path / "kubelet"
    config.write_bytes(b"\xff\xfe--network-plugin=kubenet")
    with pytest.raises(StartError):
        kubenet.check(config, allowed=False)
