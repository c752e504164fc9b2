"""`python -m mic` that renews its locks each second, so that they can be longer than any pause of the machine."""

import sys
from unittest.mock import PropertyMock, patch

from mic.cli import main
from podidentity.kube import lease
from podidentity.kube.locks import Lock

LEASE_SECONDS = 3600.0


def run() -> int:
    """Run MIC and return its exit code."""
    with (
        patch.object(lease, "REFERENCE_SECONDS", LEASE_SECONDS),
        patch.object(Lock, "_retry", PropertyMock(return_value=1.0), create=True),
    ):
        return main()


if __name__ == "__main__":
    sys.exit(run())
