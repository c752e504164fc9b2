"""Structs whose text omits the fields with secrets."""

import sys
from typing import Any, ClassVar

import msgspec

if sys.version_info >= (3, 12):
    from typing import override
else:
    from typing_extensions import override


class HidingStruct(msgspec.Struct, frozen=True):
    """A struct that shows no field of `hidden`, neither by `repr` nor to other printers."""

    hidden: ClassVar[frozenset[str]] = frozenset()

    @override
    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"

    @override
    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """Return names and values. msgspec's default has every field."""
        return [(name, getattr(self, name)) for name in self.__struct_fields__ if name not in self.hidden]
