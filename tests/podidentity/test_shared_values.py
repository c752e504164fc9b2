"""Values of many objects, stored once: bounded in number and in the length of their keys."""

from podidentity.shared_values import SHARED_CHARS, SharedValues


def test_shared_values_are_bounded_and_stay_shared_while_they_are_used() -> None:
    shared: SharedValues[str, list[str]] = SharedValues(lambda text: [text], 10, length=len)
    used = shared.of("used")
    for number in range(1000):
        shared.of(f"text-{number}")
        assert shared.of("used") is used
        assert len(shared) <= 20
    assert shared.of("text-0") == ["text-0"]


def test_a_long_text_is_not_shared() -> None:
    shared: SharedValues[str, list[str]] = SharedValues(lambda text: [text], 10, length=len)
    assert shared.of("x" * (SHARED_CHARS + 1)) == ["x" * (SHARED_CHARS + 1)]
    assert len(shared) == 0
