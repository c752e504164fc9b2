"""Errors of requests. The names are in NMI's error texts, and are those of aiohttp's exceptions of equal meaning."""


class HttpClientError(Exception):
    """No complete response. The base class of all errors of the client except ValueError."""


class ClientConnectorError(HttpClientError):
    """No connection. The text is that of *os_error*, which may be an error of the name's resolution or of TLS."""

    def __init__(self, os_error: OSError) -> None:
        super().__init__(str(os_error) or type(os_error).__name__)
        self.os_error = os_error


class ConnectionTimeoutError(HttpClientError, TimeoutError):
    """No connection in time."""


class SocketTimeoutError(HttpClientError, TimeoutError):
    """The server sent nothing in time."""


class ClientOSError(HttpClientError, OSError):
    """The connection broke before the response's head was complete."""


class ServerDisconnectedError(HttpClientError):
    """The server closed the connection before the response's head was complete."""

    def __init__(self) -> None:
        super().__init__("Server disconnected")


class ClientResponseError(HttpClientError):
    """The response's head is not valid HTTP, or too long."""


class ClientPayloadError(HttpClientError):
    """The response's body is not complete, or not valid HTTP."""
