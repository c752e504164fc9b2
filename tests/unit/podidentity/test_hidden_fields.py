"""The text of structs with secrets."""

from collections.abc import Callable, Iterator

import pytest

import nmi.app  # noqa: F401  its structs
from podidentity.hidden_fields import HidingStruct


class Password(HidingStruct, frozen=True):
    hidden = frozenset({"text"})

    text: str
    version: str = "1"


@pytest.mark.parametrize("shown", [repr, str, lambda value: f"{value}", lambda value: repr(value.__rich_repr__())])
def test_no_text_has_a_hidden_field(shown: Callable[[Password], str]) -> None:
    text = shown(Password("hunter2"))
    assert "hunter2" not in text
    assert "text" not in text
    assert "version" in text
    assert "1" in text


def every(kind: type[HidingStruct]) -> Iterator[type[HidingStruct]]:
    for subclass in kind.__subclasses__():
        yield subclass
        yield from every(subclass)


def test_every_hidden_name_is_a_field() -> None:
    structs = list(every(HidingStruct))
    assert len(structs) > 8
    for struct in structs:
        assert struct.hidden, struct
        assert struct.hidden <= set(struct.__struct_fields__), struct
