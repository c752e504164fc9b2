"""Faults in front of any server, real or emulated: proxies that hang, refuse, reset, go silent, slow or answer no.

What lives here: `connections`, which holds back, cuts or slows bytes and lets TLS through untouched, and `answers`,
which speaks HTTP and gives answers of its own. The server behind needs no knowledge of either. What never does:
deciding when a fault comes; tests, demos and chaos runs switch it.
"""

from podidentity_sandbox.faults.connections import FaultProxy, Mode, Pace
from podidentity_sandbox.faults.responses import FakeResponse, StatusProxy

__all__ = ["FakeResponse", "FaultProxy", "Mode", "Pace", "StatusProxy"]
