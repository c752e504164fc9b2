"""The sandbox's network on machines with and without root, `ip`, and programs that write nat rules."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from nmi.node.redirect_choice import Backend
from podidentity_sandbox.network_choice import choose_network

IP = """[ "$2" != exec ] || { shift 3; exec "$@"; }"""
"""`ip netns` of a machine that permits namespaces."""
NFT = ["iptables-nft", "iptables-nft-save", "iptables-nft-restore"]
LEGACY = ["iptables-legacy", "iptables-legacy-save"]


class Machine:
    """A machine whose only programs are those in `folder`."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self._set = monkeypatch
        monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
        monkeypatch.setattr("shutil.which", self._which)
        self.user(0)

    def user(self, number: int) -> None:
        self._set.setattr(os, "geteuid", lambda: number)

    def program(self, name: str, text: str = "exit 0") -> None:
        (self.folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (self.folder / name).chmod(0o755)

    def _which(self, name: str, path: str = "") -> str | None:
        file = self.folder / name
        return str(file) if file.exists() else None


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine(tmp_path, monkeypatch)
    made.program("ip", IP)
    return made


@pytest.mark.parametrize(
    ("installed", "backend"),
    [
        ([*NFT, *LEGACY, "nft"], Backend.IPTABLES_NFT),
        ([*LEGACY, "nft"], Backend.NFTABLES),
        (NFT, Backend.IPTABLES_NFT),
        (["nft"], Backend.NFTABLES),
        (LEGACY, Backend.IPTABLES_LEGACY),
    ],
)
async def test_the_first_usable_backend_is_chosen(machine: Machine, installed: Sequence[str], backend: Backend) -> None:
    for name in installed:
        machine.program(name)
    choice = await choose_network(str(machine.folder))
    assert (choice.backend, choice.redirects, choice.reason) == (backend, True, "")
    assert choice.listing[0] == str(machine.folder / installed[0 if backend is not Backend.NFTABLES else -1])


async def test_a_backend_whose_rule_the_kernel_refuses_is_not_chosen(machine: Machine) -> None:
    for name in [*NFT, "nft"]:
        machine.program(name, "exit 1")
    for name in LEGACY:
        machine.program(name)
    assert (await choose_network(str(machine.folder))).backend is Backend.IPTABLES_LEGACY


@pytest.mark.parametrize(
    ("programs", "user", "reason"),
    [
        (
            {"nft": "exit 1"},
            0,
            "the kernel accepts no nat rule from the installed programs (nftables)",
        ),
        ({}, 0, "no program that writes nat rules is installed (package nftables)"),
        ({"ip": "exit 1", "nft": "exit 0"}, 0, "this system does not permit network namespaces"),
        ({"ip": "", "nft": "exit 0"}, 0, "the program ip is missing (package iproute2)"),
        ({"nft": "exit 0"}, 1000, "not root"),
    ],
    ids=["no usable backend", "no program", "no namespaces", "no ip", "ordinary user"],
)
async def test_without_redirects_the_reason_is_named(
    machine: Machine, programs: Mapping[str, str], user: int, reason: str
) -> None:
    for name, text in programs.items():
        machine.program(name, text)
        if not text:
            (machine.folder / name).unlink()
    machine.user(user)
    choice = await choose_network(str(machine.folder))
    assert (choice.backend, choice.redirects, choice.reason) == (Backend.NONE, False, reason)
