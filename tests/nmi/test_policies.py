"""The conversion of settings into policies: the limit of reading, the settings about grants, and the mode."""

import pytest

from nmi.identity.decide import DecisionPolicy
from nmi.policies import decision_policy, server_policy
from nmi.settings import parse


@pytest.mark.parametrize("head_timeout", ["100ms", "1s", "5s", "10s", "1h"])
def test_reading_stops_before_the_lane_would_cut_off_a_connection_with_pipelined_requests(
    head_timeout: str,
) -> None:
    settings = parse(["--node=n1", f"--head-timeout={head_timeout}"], {})
    assert server_policy(settings).pipeline_seconds < settings.head_seconds


def test_reading_does_not_stop_earlier_than_necessary() -> None:
    assert server_policy(parse(["--node=n1"], {})).pipeline_seconds == 5.0


def test_every_setting_about_grants_reaches_the_decision_package() -> None:
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


def test_the_mode_determines_whether_an_identity_can_still_arrive() -> None:
    managed = parse(["--node=n1", "--operation-mode=managed", "--forceNamespaced"], {})
    assert decision_policy(managed).managed
    assert not decision_policy(parse(["--node=n1"], {})).managed
