"""No object of a connection remains after any kind of end, counted in a separate interpreter."""

from tests.contract.native.isolated.lanes import lines_of


def test_thousands_of_connections_leave_no_objects_behind() -> None:
    assert lines_of("leaks.py") == []
