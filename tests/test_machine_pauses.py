"""The times at which the machine did not run. Here the recording program alone is stopped."""

import os
import signal
import time

import pytest

from tests.machine_pauses import Pause, paused_seconds, recorded_pauses
from tests.support.waiting import until_sync

STOPPED_SECONDS = 0.5


@pytest.mark.parametrize(
    ("begin", "end", "seconds"), [(0.0, 10.0, 1.5), (1.5, 4.25, 0.75), (2.0, 4.0, 0.0), (6.0, 9.0, 0.0)]
)
def test_only_the_part_of_a_pause_within_the_time_counts(begin: float, end: float, seconds: float) -> None:
    assert paused_seconds([Pause(1.0, 2.0), Pause(4.0, 4.5)], begin, end) == seconds


def test_the_time_in_which_the_program_did_not_run_is_recorded() -> None:
    with recorded_pauses(STOPPED_SECONDS / 2) as recorder:
        os.kill(recorder.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, recorder.pid, os.WSTOPPED | os.WNOWAIT)
        begin = time.time()
        time.sleep(STOPPED_SECONDS)
        end = time.time()
        os.kill(recorder.pid, signal.SIGCONT)
        until_sync(recorder.pauses, "a pause is recorded")
        assert paused_seconds(recorder.pauses(), begin, end) == pytest.approx(end - begin)
        assert all(each.seconds >= STOPPED_SECONDS / 2 for each in recorder.pauses())
