"""A second kube-apiserver of a real control plane: the same data and certificates, other flags for service accounts."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.realnode.processes import wait_for
from tests.testplane import up

START_SECONDS: Final = 90
STOP_SECONDS: Final = 30


class SecondApiServer:
    """The server at *port* of loopback. It runs in the block of `running` only."""

    def __init__(self, plane: up.Plane, port: int) -> None:
        self.plane = plane
        self.url = f"https://127.0.0.1:{port}"
        self._port = port
        self._folder = Path(plane.directory)

    @contextmanager
    def running(self, *flags: str) -> Iterator[None]:
        """Start the server with *flags*, and stop it at the end of the block."""
        words = [
            *(str(up.build()), "kube-apiserver", f"--etcd-servers={(self._folder / 'etcd-url').read_text()}"),
            *("--bind-address=127.0.0.1", f"--secure-port={self._port}", "--endpoint-reconciler-type=none"),
            *(
                f"--tls-cert-file={self._folder / 'server.crt'}",
                f"--tls-private-key-file={self._folder / 'server.key'}",
            ),
            *(f"--client-ca-file={self._folder / 'ca.crt'}", f"--token-auth-file={self._folder / 'tokens.csv'}"),
            *("--authorization-mode=RBAC", "--anonymous-auth=false", "--service-cluster-ip-range=10.96.0.0/16"),
            *("--shutdown-watch-termination-grace-period=1s", *flags),
        ]
        with (self._folder / "second-log").open("ab") as log:
            process = subprocess.Popen(words, stdout=log, stderr=log)
        try:
            wait_for(lambda: self._is_ready(process), START_SECONDS, "the second API server is not ready")
            yield
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def kubectl(self, *arguments: str) -> bytes:
        """Return the standard output of kubectl. Raise CalledProcessError if it fails."""
        return self._kubectl(*arguments, check=True).stdout

    def accepts(self, token: str) -> bool:
        """Return whether the server accepts a token of a service account."""
        # kubectl prefers the client certificate of a kubeconfig to --token.
        api = up.Api(self.url, self.plane.ca, token)
        try:
            api("GET", "/apis")
        except RuntimeError as error:
            if ": 401 " in str(error):
                return False
            raise
        finally:
            api.close()
        return True

    def _is_ready(self, process: "subprocess.Popen[bytes]") -> bool:
        assert process.poll() is None, f"it ended with {process.returncode}: {self._last_lines()}"
        return self._kubectl("get", "--raw", "/readyz", check=False).returncode == 0

    def _last_lines(self) -> str:
        return (self._folder / "second-log").read_text(errors="replace")[-2000:]

    def _kubectl(self, *arguments: str, check: bool) -> "subprocess.CompletedProcess[bytes]":
        words = [str(up.tool("kubectl")), f"--kubeconfig={self.plane.kubeconfig}", f"--server={self.url}", *arguments]
        return subprocess.run(words, check=check, capture_output=True, timeout=60)
