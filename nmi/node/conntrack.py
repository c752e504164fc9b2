"""Deletion of tracked connections from pods to the real IMDS that are older than the redirect and would bypass NMI."""

import re

from nmi.node.rules import RedirectError, RedirectSpec
from nmi.subprocesses import SYSTEM_PATH, ProgramTimeoutError, find_program, run
from podidentity.exits import StartError

_DELETED = re.compile(r"(\d+) flow entries have been deleted")


async def find_conntrack(path: str = SYSTEM_PATH) -> str:
    """Return the path of the program. Raises StartError if it is not installed."""
    found = await find_program("conntrack", path=path)
    if found is None:
        raise StartError(
            "no conntrack program was found, which --enable-conntrack-deletion needs: install the package conntrack in "
            "NMI's image, or remove that flag"
        )
    return found


async def forget_bypassing(to: RedirectSpec, conntrack: str) -> int:
    """Delete tracked connections between pods and the real IMDS. Return their number.

    Call it after the rule is in place, or they reappear. Connections that the rule has redirected to NMI stay: their
    reply address differs. Raises RedirectError.
    """
    ip, port = to.metadata_ip, str(to.metadata_port)
    try:
        done = await run((conntrack, "-D", "-p", "tcp", "--orig-dst", ip, "--orig-port-dst", port, "--reply-src", ip))
    except ProgramTimeoutError as error:
        raise RedirectError(str(error)) from error
    deleted = _DELETED.search(done.stderr)
    if deleted is None:
        raise RedirectError(f"connections that bypass NMI were not ended: {done.complaint}; try conntrack -L")
    return int(deleted[1])  # nothing to delete ends with code 1, which is no error
