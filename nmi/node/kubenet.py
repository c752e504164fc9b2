"""Is this a node with the kubenet network plugin? There a pod can take another's address, and with it its tokens."""

import logging
import re
from pathlib import Path

from podidentity.exits import StartError

log = logging.getLogger(__name__)

_KUBENET = re.compile(r"--?network-plugin[=\s]+[\"']?kubenet\b")
_READ_MAX = 1 << 20
"""Bytes of the kubelet's configuration that are looked at; real ones are a few hundred."""


def names_kubenet(text: str) -> bool:
    """Whether the kubelet's configuration *text* asks for kubenet; lines that are comments do not count."""
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
                "the kubelet's flags may not be read; give the file to root, or kubenet is not recognised",
                extra={"path": str(kubelet_config), "error": error.strerror},
            )
        return
    except OSError as error:
        if not allowed:
            log.info(
                "no kubelet flags to look for kubenet in; if this cluster uses it, pods can spoof addresses",
                extra={"path": str(kubelet_config), "error": error.strerror},
            )
        return
    if not names_kubenet(text):
        return
    if not allowed:
        raise StartError(
            f"{kubelet_config} has --network-plugin=kubenet, with which a pod can take another pod's address and get "
            f"its tokens: use another network plugin, or accept that with --allow-network-plugin-kubenet"
        )
    log.warning("this node uses kubenet: a pod can take another's address here; forbid NET_RAW to pods by policy")
