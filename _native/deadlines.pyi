from typing import final

@final
class Deadlines:
    """The deadlines of a lane's connections. Created and used by the lane only."""

    def counters(self) -> dict[str, int]:
        """Return timed_out and its parts timed_out_first_byte, timed_out_head, timed_out_idle and timed_out_write."""
