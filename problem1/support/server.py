"""A page served to this machine alone, and the questions that the page asks.

A question is a POST of one JSON object to `/ask/NAME`: the arguments of the function of that name,
which returns plain values. A wrong question is answered with one line, `{"error": ...}`.
"""

import inspect
import json
import threading
import webbrowser
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer

from support.cli import UserError, complain, whole_number

ADDRESS = "127.0.0.1"
LARGEST_BODY = 64 * 1024  # bytes
SECONDS = 10  # that a connection may be silent
SHARED = "<!-- support/page.html -->"
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self';"
    " img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def add_arguments(parser):
    """Give a command the options `--port` and `--no-browser`."""
    parser.add_argument(
        "--port",
        type=whole_number(1024, 65535),
        default=None,
        help="serve at this port of 127.0.0.1 (default: a free one)",
    )
    parser.add_argument(
        "--no-browser", action="store_true", help="print the address and open no browser"
    )


def read_page(path):
    """The bytes of the page in `path`; what both problems' pages share replaces `SHARED`."""
    shared = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    return path.read_text(encoding="utf-8").replace(SHARED, shared).encode()


def serve(page, groups, port=None, browser=True):
    """Serve until Ctrl-C, and return the status with which it ends every command, 130.

    See `Server` for the arguments.

    Raises:
        UserError: if the port is taken.
    """
    try:
        server = Server(page, groups, port or 0)
    except OSError as error:
        raise UserError(
            f"port {port} is not free ({error.strerror}): name another one with --port"
        ) from None
    address = f"http://{ADDRESS}:{server.server_port}/"
    with server, suppress(KeyboardInterrupt):
        print(f"{address}   (Ctrl-C ends it)", flush=True)
        if browser:  # in a thread, because some browsers return only when they are closed
            threading.Thread(target=webbrowser.open, args=[address], daemon=True).start()
        server.serve_forever()
    return 130


class Server(ThreadingHTTPServer):
    """Answers with the page, and answers questions.

    Args:
        page: the bytes of the page.
        groups: dicts of questions, `{name: function}`. The questions of one group share a model
            and are answered one at a time.
        port: 0 for a free one.
    """

    daemon_threads, request_queue_size = True, 64

    def __init__(self, page, groups, port=0):
        self.page = page
        self.questions = {}
        for group in groups:
            lock = threading.Lock()
            self.questions |= {name: (function, lock) for name, function in group.items()}
        super().__init__((ADDRESS, port), Handler)
        self.hosts = [f"{name}:{self.server_port}" for name in (ADDRESS, "localhost")]

    def server_bind(self):
        TCPServer.server_bind(self)  # HTTPServer's looks this machine up in the network: slow
        self.server_name, self.server_port = self.server_address


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    timeout = SECONDS

    def do_GET(self):
        if not self.is_from_here():
            return
        if self.path.partition("?")[0] == "/":
            self.reply(200, self.server.page, "text/html; charset=utf-8")
        else:
            self.send_error(404)

    def do_POST(self):
        if not self.is_from_here():
            return
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            return self.send_error(411, "the request does not say how long it is")
        if len(length) > 9 or int(length) > LARGEST_BODY:
            return self.send_error(413, f"the request is longer than {LARGEST_BODY:,} bytes")
        body = self.rfile.read(int(length))
        name = self.path.removeprefix("/ask/")
        if name not in self.server.questions:
            return self.send_error(404)
        function, lock = self.server.questions[name]
        try:
            arguments = read_arguments(body, name, function)
            with lock:
                answer = function(**arguments)
            content = (json.dumps(answer, allow_nan=False) + "\n").encode()
        except UserError as error:
            return self.send_error(400, str(error))
        except Exception as error:  # never a traceback, neither here nor on the page
            complain(f"{name} ended in {type(error).__name__}: {error}")
            return self.send_error(500, f"this could not be computed ({type(error).__name__})")
        self.reply(200, content, "application/json")

    def is_from_here(self):
        """Whether the request names this server as its host and comes from no other page.

        A foreign page whose name resolves to 127.0.0.1 (DNS rebinding) sends its own name.
        """
        host, origin = self.headers.get("Host"), self.headers.get("Origin", "")
        good = host in self.server.hosts
        if origin:
            good = good and origin.removeprefix("http://") in self.server.hosts
        if not good:
            self.send_error(403, f"ask http://{self.server.hosts[0]}/ from this machine")
        return good

    def reply(self, status, content, kind):
        self.send_response(status)
        headers = {"Content-Type": kind, "Content-Length": str(len(content)), **HEADERS}
        for name, value in headers.items():
            self.send_header(name, value)
        with suppress(OSError):  # the other side has gone
            self.end_headers()
            self.wfile.write(content)

    def send_error(self, code, message=None, explain=None):
        line = " ".join((message or self.responses[code][0]).split())[:400]
        self.reply(code, (json.dumps({"error": line}) + "\n").encode(), "application/json")

    def log_message(self, *arguments):
        """Say nothing of good requests."""


def read_arguments(body, name, function):
    """The arguments of `function` in the JSON object `body`.

    Raises:
        UserError: if it is no JSON object, or has other entries than the function's parameters.
    """
    try:
        arguments = json.loads(body)
        if not isinstance(arguments, dict):
            raise ValueError
    except (ValueError, RecursionError):
        raise UserError("the question is no JSON object") from None
    try:
        inspect.signature(function).bind(**arguments)
    except TypeError:
        wanted = ", ".join(inspect.signature(function).parameters) or "nothing"
        given = ", ".join(arguments) or "nothing"
        raise UserError(f"{name} is asked with {wanted}, not {given}") from None
    return arguments
