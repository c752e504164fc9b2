"""Leadership on the real API server, by the clock of this machine.

Of the tests next to the Go implementation only those that depend on the server's answers run here: a lock that is
released, created or updated by several candidates. The others depend on durations, which the emulator's tests have too.
"""

import pytest

from tests.contract.kube.servers import RealServer
from tests.support.testplane.up import Plane


@pytest.fixture
def server(plane: Plane) -> RealServer:
    return RealServer(plane)
