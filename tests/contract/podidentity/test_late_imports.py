"""Imports without what most programs never use.

aiohttp is imported without CA certificates, which are loaded with the first connection, and prometheus_client
without its HTTP servers.

Each test runs in a separate process, because a package is imported once in a process.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from podidentity_sandbox.certificates import Authority

BEGIN = """
import asyncio, ssl, sys
from podidentity.late_ca_certificates import LateCaCertificates, import_aiohttp, load_ca_certificates
import_aiohttp()
import aiohttp
from aiohttp import connector
context = connector._SSL_CONTEXT_VERIFIED
"""

CONNECT = """
async def get():
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(sys.argv[1])
    async def serve(reader, writer):
        await reader.readuntil(b"\\r\\n\\r\\n")
        writer.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: 5\\r\\n\\r\\nhello")
        await writer.drain()
        writer.close()
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server_context)
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    async with aiohttp.ClientSession() as session:
        try:
            async with session.get(url) as response:
                print(await response.text())
        except aiohttp.ClientConnectorCertificateError:
            print("not trusted")
runner = uvloop.run if sys.argv[2] == "uvloop" else asyncio.run
runner(get())
"""


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    """Yield a folder with ca.pem, the only authority that the machine trusts, and server.pem, which it signed."""
    made = Authority()
    pair = made.server()
    (tmp_path / "ca.pem").write_text(made.pem)
    (tmp_path / "other.pem").write_text(Authority("another").pem)
    (tmp_path / "server.pem").write_text(pair.certificate + pair.key)
    return tmp_path


def printed(code: str, *arguments: str, **environment: str) -> str:
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment or None)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


def run(code: str, folder: Path, *arguments: str, trusted: str = "ca.pem") -> str:
    environment = {"SSL_CERT_FILE": str(folder / trusted), "SSL_CERT_DIR": str(folder / "none")}
    return printed(BEGIN + code, *arguments, **environment)


def test_importing_aiohttp_loads_no_authority(authority: Path) -> None:
    both = "context, connector._SSL_CONTEXT_UNVERIFIED"
    assert run(f"print(*[len(context.get_ca_certs()) for context in ({both})])", authority) == "0 0"


def test_other_contexts_load_them_as_usual(authority: Path) -> None:
    assert run("print(len(ssl.create_default_context().get_ca_certs()))", authority) == "1"


def test_the_settings_are_those_of_a_default_context(authority: Path) -> None:
    code = """
default = ssl.create_default_context()
for name in ("verify_mode", "check_hostname", "verify_flags", "options", "minimum_version", "maximum_version"):
    assert getattr(context, name) == getattr(default, name), name
assert context.get_ciphers() == default.get_ciphers()
"""
    assert run(code, authority) == ""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize(("trusted", "result"), [("ca.pem", "hello"), ("other.pem", "not trusted")])
def test_a_connection_is_verified_with_the_machines_authorities(
    authority: Path, loop: str, trusted: str, result: str
) -> None:
    code = "import uvloop\n" + CONNECT
    assert run(code, authority, str(authority / "server.pem"), loop, trusted=trusted) == result


def test_they_can_be_loaded_before_the_first_connection_and_stay_loaded(authority: Path) -> None:
    code = """
load_ca_certificates(); load_ca_certificates(); import_aiohttp()
print(len(connector._SSL_CONTEXT_VERIFIED.get_ca_certs()))
"""
    assert run(code, authority) == "1"


def test_contexts_that_other_threads_create_during_the_import_have_authorities(authority: Path) -> None:
    code = """
import ssl, threading
from podidentity import late_ca_certificates
with late_ca_certificates._no_ca_certificates():
    contexts = [ssl.create_default_context()]
    other = threading.Thread(target=lambda: contexts.append(ssl.create_default_context()))
    other.start()
    other.join()
contexts.append(ssl.create_default_context())
print(*[len(context.get_ca_certs()) for context in contexts])
"""
    assert run(code, authority) == "0 1 1"


def test_mic_imports_aiohttp_without_authorities(authority: Path) -> None:
    """Stop MIC where it would start its loop."""
    code = """
import uvloop
def stop(coroutine):
    coroutine.close()
    print(type(sys.modules["aiohttp.connector"]._SSL_CONTEXT_VERIFIED).__name__)
uvloop.run = stop
from mic.cli import main
main([])
"""
    environment = {"SSL_CERT_FILE": str(authority / "ca.pem"), "MIC_POD_NAMESPACE": "default"}
    assert printed(f"import sys\n{code}", **environment) == "LateCaCertificates"


BEGIN_PROMETHEUS = """
import sys
from podidentity.telemetry.late_exposition import import_prometheus
import_prometheus()
import prometheus_client
from prometheus_client import CollectorRegistry, Counter, generate_latest
"""


def test_the_import_loads_no_server_and_no_client() -> None:
    unused = {"http.server", "wsgiref", "urllib.request", "email", "prometheus_client.exposition"}
    code = f"print({unused} & set(sys.modules))"
    assert printed(BEGIN_PROMETHEUS + code) == "set()"


def test_functions_of_the_module_import_it_with_their_first_call() -> None:
    code = """
registry = CollectorRegistry()
Counter("requests", "Requests.", registry=registry).inc()
print(b"requests_total 1.0" in generate_latest(registry), "prometheus_client.exposition" in sys.modules)
import prometheus_client.exposition
print(prometheus_client.exposition.generate_latest is prometheus_client.generate_latest)
"""
    assert printed(BEGIN_PROMETHEUS + code) == "True True\nFalse"


def test_an_imported_package_stays_as_it_is() -> None:
    code = """
import prometheus_client
before = prometheus_client.generate_latest
from podidentity.telemetry.late_exposition import import_prometheus
import_prometheus()
print(prometheus_client.generate_latest is before, prometheus_client.exposition.__name__)
"""
    assert printed(code) == "True prometheus_client.exposition"
