"""The cost of service principals: none before the first request, and no code for Resource Manager after it.

Each runs in a separate process, because other tests' imports would be visible here.
"""

import subprocess
import sys

import pytest

from tests.support.nmi.heavy_packages import HEAVY

MODULES_MAX = 460 if sys.version_info < (3, 13) else 490
"""388 with Python 3.11, 454 with 3.13, 460 with 3.14, whose standard library has more modules. If a library adds
a hundred, check whether it is necessary.
"""


def modules_after(code: str) -> set[str]:
    """Return the names of the modules in an interpreter that ran *code*."""
    command = [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"]
    return set(subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.split())


def test_unused_features_load_no_heavy_packages() -> None:
    loaded = modules_after("import uvloop, nmi.cli; nmi.cli._app()")
    assert {name.partition(".")[0] for name in loaded} & HEAVY == set()
    assert len(loaded) <= MODULES_MAX


def test_signing_in_imports_no_module_for_resource_manager() -> None:
    loaded = modules_after("import nmi.app, nmi.tokens.entra")
    assert "azure.identity.aio" in loaded
    assert not [name for name in loaded if name.startswith("azure.mgmt")]


@pytest.mark.parametrize("needed", ["azure.mgmt", "azure.mgmt.compute", "azure.mgmt.core"])
def test_signing_in_requires_no_package_for_resource_manager(needed: str) -> None:
    modules_after(f"import sys; sys.modules[{needed!r}] = None; import nmi.app, nmi.tokens.entra")


def test_the_signing_process_imports_no_module_of_this_project() -> None:
    loaded = modules_after("import runpy; runpy.run_path('nmi/tokens/signing_program.py', run_name='read')")
    assert {name.partition(".")[0] for name in loaded} & {"nmi", "azure", "msal", "requests"} == set()
