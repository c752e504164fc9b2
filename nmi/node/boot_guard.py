"""The boot guard: a systemd unit of the host that inserts the reject rule of `--fail-closed` before the kubelet starts.

netfilter is empty after a reboot, and the kubelet starts other pods concurrently with NMI. The guard closes that window
with the host's own iptables. The rule has the text of `nmi.node.rules`, so NMI recognises it as its own. The unit is
written to the host's directory of units and enabled by a link. systemd reads both at the next boot, so no daemon-reload
is needed. Where the kubelet's flags have the label of eBPF host routing (`nmi.node.host_routing`), the unit deletes the
rule instead: there it could keep the node from getting its network.
"""

import os
import re
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

from nmi.node.host_routing import LABELLED
from nmi.node.rules import RedirectSpec
from podidentity.exits import StartError

NAME: Final = "aad-pod-identity-boot-guard.service"
WANTED_BY: Final = "kubelet.service.wants"
"""The kubelet waits for the guard. `wants`, not `requires`: a guard that fails must not keep the node from starting."""

_INSERT: Final = "iptables -w 30 -t {table} -C {hook} {rule} 2>/dev/null || iptables -w 30 -t {table} -I {hook} {rule}"
"""Idempotent: RemainAfterExit alone would not stop an operator from starting the unit again."""
_DELETE: Final = "while iptables -w 30 -t {table} -D {hook} {rule} 2>/dev/null; do :; done"
_COMMAND: Final = 'if grep -Eqsw "{label}" {kubelet}; then {delete}; else {insert}; fi'
_PLAIN: Final = re.compile(r"[\w./-]+", re.ASCII)
"""A path that means itself to systemd and to the shell."""

_UNIT: Final = """\
# Written by aad-pod-identity (nmi --boot-guard=install); `nmi --boot-guard=remove` and `nmi --cleanup` delete it.
[Unit]
Description=Reject pods' requests for Azure instance metadata until NMI runs (aad-pod-identity)
# After everything that may load a rule set of its own, and before anything that can start a pod.
After=network-pre.target firewalld.service iptables.service netfilter-persistent.service nftables.service ufw.service
Before=kubelet.service

[Service]
Type=oneshot
RemainAfterExit=yes
TimeoutStartSec=60
ExecStart=/bin/sh -c '{command}'

[Install]
WantedBy=kubelet.service
"""


def unit(to: RedirectSpec, kubelet_config: Path) -> str:
    """Return the text of the unit that inserts the reject rule for *to*. Raises StartError for an unusual path."""
    if not _PLAIN.fullmatch(str(kubelet_config)):
        raise StartError(
            f"--kubelet-config={kubelet_config} cannot be a part of the boot guard's unit: use a path of letters, "
            f"digits, '.', '_', '-' and '/'"
        )
    rule = to.reject
    named = {"table": rule.table, "hook": rule.hook, "rule": rule.text}
    insert, delete = _INSERT.format_map(named), _DELETE.format_map(named)
    command = _COMMAND.format(label=LABELLED, kubelet=kubelet_config, insert=insert, delete=delete)
    return _UNIT.format(command=command)


def install(directory: Path, to: RedirectSpec, kubelet_config: Path) -> bool:
    """Write and enable the unit in *directory*, the host's /etc/systemd/system; return whether anything changed.

    *kubelet_config* is the path of the kubelet's flags on the host.
    Blocks. The unit is replaced as a whole, never written in place. Raises StartError.
    """
    try:
        # Before its link, so that systemd never finds a link without a unit.
        changed = _write(directory / NAME, unit(to, kubelet_config))
        link = directory / WANTED_BY / NAME
        target = f"../{NAME}"
        if not (link.is_symlink() and str(link.readlink()) == target):
            link.parent.mkdir(mode=0o755, exist_ok=True)
            link.unlink(missing_ok=True)
            link.symlink_to(target)
            changed = True
    except OSError as error:
        raise StartError(
            f"cannot install the boot guard in {directory} ({error.strerror}): mount the host's /etc/systemd/system "
            f"there, writable, or name its directory with --systemd-directory"
        ) from error
    return changed


def remove(directory: Path) -> bool:
    """Delete the unit and its link from *directory*; return whether there was any. Blocks. Raises StartError."""
    link, file = directory / WANTED_BY / NAME, directory / NAME
    try:
        existing = [path for path in (link, file) if path.is_symlink() or path.exists()]
        for path in existing:
            path.unlink()
        if link in existing:
            with suppress(OSError):  # other units are in it
                link.parent.rmdir()
    except OSError as error:
        raise StartError(
            f"cannot remove the boot guard from {directory} ({error.strerror}): delete {NAME} and {WANTED_BY}/{NAME} "
            f"there"
        ) from error
    return bool(existing)


def installed(directory: Path) -> bool:
    """Return whether the unit is enabled in *directory*, regardless of its text. Blocks. Raises OSError."""
    return (directory / WANTED_BY / NAME).is_symlink() and (directory / NAME).is_file()


def _write(path: Path, text: str) -> bool:
    with suppress(FileNotFoundError):
        # A link at this path is replaced, so that NMI neither reads nor writes through it.
        if not path.is_symlink() and path.read_text() == text:
            return False
    descriptor, name = tempfile.mkstemp(prefix=f".{NAME}-", dir=path.parent)
    new = Path(name)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            # The unit must be complete after a crash, because systemd reads it at the next boot.
            os.fsync(descriptor)
        new.chmod(0o644)
        new.replace(path)
    except OSError:
        new.unlink(missing_ok=True)
        raise
    return True
