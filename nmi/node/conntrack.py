"""Forgetting connections that pods opened to the real IMDS before the rule was in: they would go on bypassing NMI."""

import re

from nmi.node.commands import SYSTEM_PATH, ProgramTimeoutError, find_program, run
from nmi.node.rules import RedirectError, RedirectSpec
from podidentity.exits import StartError

_DELETED = re.compile(r"(\d+) flow entries have been deleted")


async def find_conntrack(path: str = SYSTEM_PATH) -> str:
    """Path of the program. Raises StartError when it is not installed."""
    found = await find_program("conntrack", path=path)
    if found is None:
        raise StartError(
            "no conntrack program was found, which --enable-conntrack-deletion needs: install the package conntrack in "
            "NMI's image, or leave that flag out"
        )
    return found


async def forget_bypassing(to: RedirectSpec, conntrack: str) -> int:
    """Delete what is tracked between pods and the real IMDS; how many. Only after the rule is in: they come back else.

    Connections that the rule has led to NMI stay: their answers come from elsewhere. Raises RedirectError.
    """
    ip, port = to.metadata_ip, str(to.metadata_port)
    try:
        done = await run((conntrack, "-D", "-p", "tcp", "--orig-dst", ip, "--orig-port-dst", port, "--reply-src", ip))
    except ProgramTimeoutError as error:
        raise RedirectError(str(error)) from error
    deleted = _DELETED.search(done.stderr)
    if deleted is None:
        raise RedirectError(f"connections that bypass NMI were not forgotten: {done.complaint}; try conntrack -L")
    return int(deleted[1])  # nothing to delete ends with code 1, which is no error
