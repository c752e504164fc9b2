"""Detection of the kubenet network plugin, with which a pod can take another pod's address and so its tokens."""

import logging
import re
from pathlib import Path

from podidentity.exits import StartError

log = logging.getLogger(__name__)

_KUBENET = re.compile(r"--?network-plugin[=\s]+[\"']?kubenet\b")
_READ_MAX = 1 << 20
"""Bytes of the kubelet's configuration that are read; real ones have a few hundred."""


def names_kubenet(text: str) -> bool:
    """Return whether the kubelet's configuration *text* selects kubenet; comment lines do not count."""
    lines = (line for line in text.splitlines() if not line.lstrip().startswith("#"))
    return any(_KUBENET.search(line) for line in lines)


def check(kubelet_config: Path, *, allowed: bool) -> None:
    """Raise StartError on a node with kubenet, unless *allowed*. A file that cannot be read is logged, not fatal: NMI
    has no capability to read another user's private file (DAC_READ_SEARCH)."""
    try:
        with kubelet_config.open(encoding="utf-8", errors="replace") as file:
            text = file.read(_READ_MAX)
    except PermissionError as error:
        if not allowed:
            log.warning(
                "no permission to read the kubelet's flags, NMI cannot detect kubenet; make root the owner of the file",
                extra={"path": str(kubelet_config), "error": error.strerror},
            )
        return
    except OSError as error:
        if not allowed:
            log.info(
                "no file with the kubelet's flags, so NMI cannot detect kubenet, with which pods can spoof addresses",
                extra={"path": str(kubelet_config), "error": error.strerror},
            )
        return
    if not names_kubenet(text):
        return
    if not allowed:
        raise StartError(
            f"{kubelet_config} has --network-plugin=kubenet, with which a pod can take another pod's address and get "
            f"its tokens: use another network plugin, or accept the risk with --allow-network-plugin-kubenet"
        )
    log.warning("node uses kubenet, pods can take each other's address; forbid NET_RAW to pods by policy")
