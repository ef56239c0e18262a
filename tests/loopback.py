"""A real HTTP server on loopback, in threads of its own, until it is closed."""

from __future__ import annotations

import http.server
import ssl
import threading


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        return


class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:  # a client that has gone away is part of the tests
        return


class Loopback:
    def __init__(self, handler: type[Handler], secured: ssl.SSLContext | None = None) -> None:
        self._server = Server(("127.0.0.1", 0), handler)
        if secured:
            self._server.socket = secured.wrap_socket(self._server.socket, server_side=True)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        # looked at often, so that closing waits for nothing
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
