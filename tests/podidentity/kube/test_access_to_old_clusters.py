"""Certificates without key identifiers, which Python 3.13 refuses by default, are accepted, as by other clients."""

import base64
import socket
import ssl
from pathlib import Path

import pytest

from podidentity.kube.access import from_kubeconfig, in_cluster
from tests.old_authority import as_from_python_3_13_on, old_server
from tests.podidentity.kube.test_access import kubeconfig

pytestmark = pytest.mark.usefixtures("strict")


@pytest.fixture
def strict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssl, "create_default_context", as_from_python_3_13_on(ssl.create_default_context))


def greeted(context: ssl.SSLContext | None, port: int) -> str | None:
    """The TLS version that a connection has, once both sides have agreed."""
    assert context is not None
    with (
        socket.create_connection(("127.0.0.1", port), timeout=60) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as wrapped,
    ):
        return wrapped.version()


def test_a_pod_trusts_its_clusters_authority(tmp_path: Path) -> None:
    with old_server() as (authority, port):
        (tmp_path / "ca.crt").write_text(authority)
        (tmp_path / "token").write_text("t")
        with pytest.raises(ssl.SSLCertVerificationError, match=r"(?i)key identifier"):
            greeted(ssl.create_default_context(cadata=authority), port)
        environ = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(port)}
        assert greeted(in_cluster(tmp_path, environ).ssl, port) == "TLSv1.3"


async def test_a_kubeconfig_trusts_the_authority_that_it_names(tmp_path: Path) -> None:
    with old_server() as (authority, port):
        encoded = base64.b64encode(authority.encode()).decode()
        cluster = {"server": f"https://127.0.0.1:{port}", "certificate-authority-data": encoded}
        context = (await from_kubeconfig(kubeconfig(tmp_path / "config", {}, **cluster))).ssl
        with old_server() as (_, stranger), pytest.raises(ssl.SSLCertVerificationError):
            greeted(context, stranger)
        assert greeted(context, port) == "TLSv1.3"


async def test_the_systems_authorities_are_checked_as_strictly_as_python_does(tmp_path: Path) -> None:
    context = (await from_kubeconfig(kubeconfig(tmp_path / "config", {}))).ssl
    assert context is not None
    assert context.verify_flags & ssl.VERIFY_X509_STRICT
