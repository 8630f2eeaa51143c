"""The page of a trace, served to a browser on this computer.

Only who has the address may read the page: the address has a random token, and the server listens
on the loopback interface alone. It serves the page and the arrays of the trace, and no file. It
compares the names in ``Host`` and ``Origin``, so that no other page in the same browser can send a
request.
"""

from __future__ import annotations

import hmac
import json
import os
import re
import secrets
import sys
import webbrowser
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from autograd.page.live import Answers, Live, Reader
from autograd.stepper.stops import CommandError
from autograd.stepper.trace import Trace

PATIENCE = 20  # seconds for which a connection may say nothing
OURS = re.compile(r"(127\.0\.0\.1|localhost)(:\d{1,5})?", re.ASCII)  # any port: it may be forwarded
SILENT = (ConnectionError, TimeoutError)  # a tab was closed


def serve(trace: Trace, port: int = 0, browser: bool = True, reader: Reader | None = None) -> None:
    """Serve the page of a trace until Ctrl-C, and open a browser if there is one.

    Parameters
    ----------
    trace : Trace
    port : int
        The port on 127.0.0.1; with 0 a free one.
    browser : bool
        Whether to open a browser.
    reader : Reader, optional
        Reads other texts, if the page asks for this.

    Raises
    ------
    OSError
        If the port is in use, or needs rights that the user does not have.
    """
    serve_answers(Live(trace, reader), port, browser)


def serve_answers(live: Answers, port: int = 0, browser: bool = True) -> None:
    """Serve a page and its answers until Ctrl-C; see `serve`."""
    with Server(live, port) as server:
        try:
            print(f"the page is at {server.address}\nCtrl-C ends it", flush=True)
            if browser and _has_browser():
                webbrowser.open(server.address)
            server.serve_forever()
        except KeyboardInterrupt:
            print()


def _has_browser() -> bool:
    """Return whether a browser can open a window, and does not take over the terminal."""
    names = ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY")
    return sys.platform in ("darwin", "win32") or any(map(os.environ.get, names))


class Server(ThreadingHTTPServer):
    """Serves a page on the loopback interface; its `address` has a random token."""

    daemon_threads = True  # they end with the program
    allow_reuse_address = os.name == "posix"  # elsewhere two servers could share a port

    def __init__(self, live: Answers, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.live, self.token = live, secrets.token_urlsafe(24)

    @property
    def address(self) -> str:
        """The address of the page."""
        return f"http://127.0.0.1:{self.server_port}/{self.token}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print an error, unless the browser has only closed the connection."""
        if not isinstance(sys.exception(), SILENT):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """Answers one request: the page, an array, or a recomputation."""

    server: Server
    timeout = PATIENCE

    def do_GET(self) -> None:
        """Send the page, or the elements of an array."""
        path = self.path_behind_token()
        if path is None:
            return
        if path == "":
            page = self.server.live.page("http").encode()
            self.reply(HTTPStatus.OK, "text/html; charset=utf-8", page)
        elif match := re.fullmatch(r"array/(\d{1,9})\?version=(\d{1,9})", path, re.ASCII):
            try:
                array = self.server.live.array(int(match[1]), int(match[2]))
            except CommandError as error:
                self.refuse(HTTPStatus.NOT_FOUND, str(error))
            else:
                self.reply(HTTPStatus.OK, "application/octet-stream", array)
        else:
            self.refuse(HTTPStatus.NOT_FOUND, "there is nothing at this address")

    def do_POST(self) -> None:
        """Carry out a recomputation; see `Live.answer`."""
        path = self.path_behind_token()
        if path is None:
            return
        if path != "recompute":
            self.refuse(HTTPStatus.NOT_FOUND, "there is nothing at this address")
            return
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch(r"\d{1,9}", length, re.ASCII):
            self.refuse(HTTPStatus.LENGTH_REQUIRED, "a request says its length")
        elif int(length) > (longest := self.server.live.longest):
            message = f"a request has at most {longest} bytes"
            self.refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, message)
        else:
            try:
                request = json.loads(self.rfile.read(int(length)))
            except (ValueError, RecursionError):
                self.refuse(HTTPStatus.BAD_REQUEST, "a request is JSON")
                return
            answer = json.dumps(self.server.live.answer(request), allow_nan=False)
            self.reply(HTTPStatus.OK, "application/json", answer.encode())

    def path_behind_token(self) -> str | None:
        """Return the path behind the token; refuse a request that is not from our page."""
        hosts, origins = self.headers.get_all("Host", []), self.headers.get_all("Origin", [])
        _, token, *rest = [*self.path.split("/", 2), ""]
        if len(hosts) != 1 or not OURS.fullmatch(hosts[0]):
            self.refuse(HTTPStatus.FORBIDDEN, "the host is not this computer")
        elif origins != [f"http://{hosts[0]}"] and (origins or self.command == "POST"):
            self.refuse(HTTPStatus.FORBIDDEN, "another page may ask for nothing here")
        elif len(rest) < 2 or not hmac.compare_digest(token.encode(), self.server.token.encode()):
            self.refuse(HTTPStatus.NOT_FOUND, "there is nothing at this address")
        else:
            return rest[0]
        return None

    def refuse(self, status: HTTPStatus, message: str) -> None:
        """Send the reason why a request is not answered."""
        self.reply(status, "text/plain; charset=utf-8", f"{message}\n".encode())

    def reply(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        """Send a status, the headers that keep the page to itself, and a body."""
        self.send_response(status)
        for name, value in [
            ("Content-Type", kind),
            ("Content-Length", str(len(body))),
            ("Content-Security-Policy", "frame-ancestors 'none'"),  # the page has its own, too
            ("Cross-Origin-Opener-Policy", "same-origin"),
            ("Cross-Origin-Resource-Policy", "same-origin"),
            ("X-Content-Type-Options", "nosniff"),
            ("Referrer-Policy", "same-origin"),
            ("Cache-Control", "no-store"),
        ]:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def version_string(self) -> str:
        """Return the name of the server, without its versions."""
        return "autograd"

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing: the terminal belongs to the user."""
