"""What the app makes of the settings for other rooms, where two values must keep their distance. Excluded: the rest."""

import pytest

from nmi.app import server_policy
from nmi.settings import parse


@pytest.mark.parametrize("head_timeout", ["100ms", "1s", "5s", "10s", "1h"])
def test_reading_stops_before_the_lane_would_cut_a_connection_with_a_request_behind_the_held_one(
    head_timeout: str,
) -> None:
    settings = parse(["--node=n1", f"--head-timeout={head_timeout}"], {})
    assert server_policy(settings).pipeline_seconds < settings.head_seconds


def test_it_does_not_stop_sooner_than_it_must() -> None:
    assert server_policy(parse(["--node=n1"], {})).pipeline_seconds == 5.0
