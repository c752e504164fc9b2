"""The versions of helm with which tests run. The golden texts are rendered with both for each change."""

from typing import Final

import pytest

HELMS: Final = ("helm", pytest.param("helm3", marks=pytest.mark.nightly))
"""Values of a parameter. The older version runs nightly."""
