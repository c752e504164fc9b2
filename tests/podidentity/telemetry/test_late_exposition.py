"""prometheus_client is imported without its HTTP servers, and its functions still work. Each test is a process, because
a package is imported once in a process.
"""

import subprocess
import sys

BEGIN = """
import sys
from podidentity.telemetry.late_exposition import import_prometheus
import_prometheus()
import prometheus_client
from prometheus_client import CollectorRegistry, Counter, generate_latest
"""


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_import_loads_no_server_and_no_client() -> None:
    unused = {"http.server", "wsgiref", "urllib.request", "email", "prometheus_client.exposition"}
    code = f"print({unused} & set(sys.modules))"
    assert run(BEGIN + code) == "set()"


def test_functions_of_the_module_import_it_with_their_first_call() -> None:
    code = """
registry = CollectorRegistry()
Counter("requests", "Requests.", registry=registry).inc()
print(b"requests_total 1.0" in generate_latest(registry), "prometheus_client.exposition" in sys.modules)
import prometheus_client.exposition
print(prometheus_client.exposition.generate_latest is prometheus_client.generate_latest)
"""
    assert run(BEGIN + code) == "True True\nFalse"


def test_an_imported_package_stays_as_it_is() -> None:
    code = """
import prometheus_client
before = prometheus_client.generate_latest
from podidentity.telemetry.late_exposition import import_prometheus
import_prometheus()
print(prometheus_client.generate_latest is before, prometheus_client.exposition.__name__)
"""
    assert run(code) == "True prometheus_client.exposition"
