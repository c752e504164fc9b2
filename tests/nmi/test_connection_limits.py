"""The limits of connections, from the container's memory limit and from flags, which take precedence."""

import pytest

from nmi.connection_limits import connection_limits
from nmi.settings import Settings

MIB = 1 << 20


@pytest.mark.parametrize(
    ("limit", "places", "memory", "buffers"),
    [
        (None, (8192, 512), 512 * MIB, (16384, 65536)),
        (4096 * MIB, (8192, 512), 1024 * MIB, (16384, 65536)),
        (512 * MIB, (8192, 512), 128 * MIB, (4096, 8192)),
        (256 * MIB, (4096, 256), 64 * MIB, (4096, 8192)),
        (64 * MIB, (1024, 256), 16 * MIB, (4096, 8192)),
        (MIB, (512, 256), 8 * MIB, (4096, 8192)),
    ],
)
def test_the_limits_follow_the_memory_limit(
    limit: int | None, places: tuple[int, int], memory: int, buffers: tuple[int, int]
) -> None:
    found = connection_limits(Settings(node_name="n"), limit)
    assert (found.places, found.places_per_pod) == places
    assert found.memory_bytes == memory
    assert (found.receive_bytes, found.send_bytes) == buffers
    assert found.warnings == ()


def test_flags_take_precedence_and_a_contradiction_is_named() -> None:
    settings = Settings(node_name="n", max_connections=20_000, max_connections_per_pod=300)
    found = connection_limits(settings, 512 * MIB)
    assert (found.places, found.places_per_pod) == (20_000, 300)
    (warning,) = found.warnings
    assert "connections may be 20000, and 8192 fit" in warning

    found = connection_limits(Settings(node_name="n", max_connection_bytes=300 * MIB), 512 * MIB)
    assert found.memory_bytes == 300 * MIB
    (warning,) = found.warnings
    assert warning.startswith(f"--max-connection-bytes is {300 * MIB}")

    assert connection_limits(Settings(node_name="n", max_connections=4000), 512 * MIB).warnings == ()


def test_one_pod_may_have_as_many_connections_as_its_flag_says() -> None:
    found = connection_limits(Settings(node_name="n", max_connections_per_pod=5000), 64 * MIB)
    assert (found.places, found.places_per_pod, len(found.warnings)) == (5000, 5000, 1)
