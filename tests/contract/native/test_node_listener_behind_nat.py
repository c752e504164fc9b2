"""The listener on the node's address serves only connections that a rule redirected from the metadata address."""

import pytest

from tests.contract.native.isolated.lanes import lines_of

FAST = "HTTP/1.1 200 OK"


@pytest.mark.root
def test_only_redirected_connections_to_the_nodes_address_are_served() -> None:
    assert lines_of("node_listener.py", network_namespace=True) == [
        f"redirected {FAST}",
        "node reset",
        "service reset",
        "other port reset",
        "other address reset",
        f"redirected again {FAST}",
        f"loopback {FAST}",
        "closed 4 last 169.254.169.253",
        "tracked 0 1",
        "flushed 1 0",
        "adopted 169.254.169.254 80 True",
        "adopted 169.254.169.254 82 False",
        "adopted 10.0.0.1  False",
        "adopted 127.0.0.1  True",
    ]
