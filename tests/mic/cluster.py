"""Names of `tests.support.objects` for tests outside tests/mic."""

from tests.support.objects import identity_id, set_id, vm_id

__all__ = ["identity_id", "set_id", "vm_id"]
