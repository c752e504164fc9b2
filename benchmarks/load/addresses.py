"""Addresses of pods by number."""

import ipaddress
from typing import Final

FIRST_POD: Final = "127.1.0.1"
"""The address of the first pod on loopback; the others follow."""


def addresses(count: int, first: str = FIRST_POD) -> list[str]:
    """Return *count* consecutive addresses that start with *first*."""
    begin = int(ipaddress.IPv4Address(first))
    return [str(ipaddress.IPv4Address(begin + number)) for number in range(count)]
