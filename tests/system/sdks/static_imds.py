"""A metadata endpoint that refuses each token request with the same plain text: static_imds.py TEXT COMMAND...

Run it in a network namespace of its own. COMMAND runs while the endpoint responds at 169.254.169.254; the exit code is
that of COMMAND.
"""

import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from typing_extensions import override

ADDRESS = "169.254.169.254"


class Handler(BaseHTTPRequestHandler):
    """Responses of the endpoint."""

    def do_GET(self) -> None:
        body = sys.argv[1].encode()
        # A chain's probe for the endpoint has no header.
        self.send_response(403 if self.headers.get("Metadata", "").lower() == "true" else 400)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    @override
    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


def main() -> int:
    for command in (("link", "set", "lo", "up"), ("address", "add", f"{ADDRESS}/32", "dev", "lo")):
        subprocess.run(["ip", *command], check=True)
    server = ThreadingHTTPServer((ADDRESS, 80), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return subprocess.run(sys.argv[2:], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
