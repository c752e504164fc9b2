"""Faults in front of any server, real or emulated: proxies that hang, refuse, reset, stall, slow down or return errors.

`connections` delays, cuts or slows bytes and passes TLS unchanged. `responses` parses HTTP and returns its own
responses. The upstream server needs no support for either. Tests, demos and chaos runs decide when a fault occurs.
"""

from podidentity_sandbox.faults.connections import FaultProxy, Mode, Pace
from podidentity_sandbox.faults.responses import FakeResponse, StatusProxy

__all__ = ["FakeResponse", "FaultProxy", "Mode", "Pace", "StatusProxy"]
