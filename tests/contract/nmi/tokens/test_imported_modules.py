"""The cost of service principals: none before the first request, and no code for Resource Manager after it.

Each runs in a separate process, because other tests' imports would be visible here.
"""

import subprocess
import sys

import pytest

from tests.system.local.nmi.test_cost_of_250_pods import HEAVY

SAY = "import sys; print(sorted(name for name in sys.modules if name.split('.')[0] in {'azure', 'msal', 'requests'}))"


MODULES_MAX = 460 if sys.version_info < (3, 13) else 490
"""388 with Python 3.11, 454 with 3.13, 460 with 3.14, whose standard library has more modules. If a library adds
a hundred, check whether it is necessary.
"""


def modules_after(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{SAY}"], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout


def test_unused_features_load_no_heavy_packages() -> None:
    code = "import sys, uvloop, nmi.cli; nmi.cli._app(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    loaded = set(done.stdout.split())
    assert {name.partition(".")[0] for name in loaded} & HEAVY == set()
    assert len(loaded) <= MODULES_MAX


def test_signing_in_imports_no_module_for_resource_manager() -> None:
    loaded = modules_after("import nmi.app, nmi.tokens.entra")
    assert "'azure.identity.aio'" in loaded
    assert "azure.mgmt" not in loaded


@pytest.mark.parametrize("needed", ["azure.mgmt", "azure.mgmt.compute", "azure.mgmt.core"])
def test_signing_in_requires_no_package_for_resource_manager(needed: str) -> None:
    modules_after(f"import sys; sys.modules[{needed!r}] = None; import nmi.app, nmi.tokens.entra")


def test_the_signing_process_imports_no_module_of_this_project() -> None:
    code = "import runpy, sys; runpy.run_path('nmi/tokens/assertion.py', run_name='read')"
    output = modules_after(f"{code}\nassert not [name for name in sys.modules if name.startswith('nmi')]")
    assert output.strip() == "[]"
