"""Structs that compare a part of their fields."""

import sys
from typing import Any

import msgspec

if sys.version_info >= (3, 12):
    from typing import override
else:
    from typing_extensions import override


class ComparedStruct(msgspec.Struct, frozen=True, eq=False):
    """A struct that is equal to one of its own class with equal `compared`. Subclasses need `eq=False`, too."""

    @property
    def compared(self) -> tuple[Any, ...]:
        """The values that decide equality."""
        raise NotImplementedError

    @override
    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self)) and self.compared == other.compared

    @override
    def __ne__(self, other: object) -> bool:
        return not self == other  # a struct's own compares all fields

    @override
    def __hash__(self) -> int:
        return hash(self.compared)
