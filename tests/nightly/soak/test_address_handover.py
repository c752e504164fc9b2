"""With local evidence no request of an address's next owner gets the former owner's token (docs/security.md).

The address passes on faster than any CNI plugin could do it, and the report comes late. Excluded: how long the window
is without evidence (`make handover`).
"""

import pytest

from tests.nightly.soak.handover import KINDS, measured

HAND_OVERS = 2

pytestmark = pytest.mark.root


@pytest.mark.parametrize("kind", KINDS)
async def test_the_next_owner_never_gets_the_former_owners_token(kind: str) -> None:
    (row,) = await measured(kind, evidence=True, delays=(0.3,), enough=lambda row: row.hand_overs >= HAND_OVERS)
    assert row.former == 0, row
    assert row.granted > 0


async def test_without_evidence_the_measurement_finds_wrong_tokens() -> None:
    """The former owner's token is given for as long as the report is late."""
    (row,) = await measured("point-to-point", evidence=False, delays=(0.3,), enough=lambda row: row.latest > 0.2)
    assert row.former > 0, row
