from typing import final

@final
class Deadlines:
    """Closes connections of one lane that are past their deadline; made and used by the lane only."""

    def counters(self) -> dict[str, int]:
        """timed_out, and what of it is timed_out_first_byte, timed_out_head, timed_out_idle and timed_out_write."""
