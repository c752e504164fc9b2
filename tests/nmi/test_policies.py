"""The conversion of the settings where it matters which value goes where. Excluded: the rest."""

import pytest

from nmi.identity.decide import DecisionPolicy
from nmi.policies import decision_policy, server_policy
from nmi.settings import parse


@pytest.mark.parametrize("head_timeout", ["100ms", "1s", "5s", "10s", "1h"])
def test_reading_stops_before_the_lane_would_cut_a_connection_with_a_request_behind_the_held_one(
    head_timeout: str,
) -> None:
    settings = parse(["--node=n1", f"--head-timeout={head_timeout}"], {})
    assert server_policy(settings).pipeline_seconds < settings.head_seconds


def test_it_does_not_stop_sooner_than_it_must() -> None:
    assert server_policy(parse(["--node=n1"], {})).pipeline_seconds == 5.0


def test_every_setting_that_decides_who_gets_what_gets_to_the_deciding_room() -> None:
    given = [
        "--forceNamespaced",
        "--retry-attempts-for-created=3",
        "--retry-attempts-for-assigned=2",
        "--find-identity-retry-interval=7",
        "--max-hold=30s",
        "--host-token-types=1",
    ]
    assert decision_policy(parse(["--node=n1", *given], {})) == DecisionPolicy(
        force_namespaced=True,
        created_attempts=3,
        assigned_attempts=2,
        interval_seconds=7.0,
        max_hold_seconds=30.0,
        host_token_types=frozenset((1,)),
    )
    assert decision_policy(parse(["--node=n1"], {})) == DecisionPolicy(host_token_types=frozenset())


def test_the_mode_decides_whether_anything_can_still_be_assigned() -> None:
    managed = parse(["--node=n1", "--operation-mode=managed", "--forceNamespaced"], {})
    assert decision_policy(managed).managed
    assert not decision_policy(parse(["--node=n1"], {})).managed
