"""NMI with other limits than its constants."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from podidentity_sandbox import processes, sandbox

SECONDS = "import nmi.connection_limits as limits; limits.FIRST_BYTE_SECONDS = limits.HEAD_SECONDS = {}"
"""The time until the first byte of a request, and from then until it is complete."""
HANDOVER_SECONDS = (
    "import nmi.handover.predecessor as former, nmi.handover.successor as successor; "
    "former.TAKE_SECONDS = former.TOKENS_SECONDS = successor.RESPONSE_SECONDS = {}"
)
"""The time for which one end of a handover waits for the other one."""
MEMORY = "import nmi.node.memory_limit as container; container.memory_limit = lambda: {}"
"""The memory limit of NMI's container in bytes."""
RUN = "import sys; from nmi.cli import main; sys.exit(main(sys.argv[1:]))"


@contextmanager
def changed_nmi(change: str) -> Iterator[None]:
    """Let sandboxes start NMI with *change*, a line of Python, in this context."""

    def python(module: str, *arguments: str) -> list[str]:
        if module == "nmi":
            return [sys.executable, "-c", f"{change}\n{RUN}", *arguments]
        return processes.python(module, *arguments)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sandbox, "python", python)
        yield
