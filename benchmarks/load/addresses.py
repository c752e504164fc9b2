"""The addresses of pods, by their numbers."""

import ipaddress
from typing import Final

FIRST_POD: Final = "127.1.0.1"
"""Of the first pod on loopback; the others follow one by one."""


def addresses(count: int, first: str = FIRST_POD) -> list[str]:
    """*count* addresses from *first* on."""
    begin = int(ipaddress.IPv4Address(first))
    return [str(ipaddress.IPv4Address(begin + number)) for number in range(count)]
