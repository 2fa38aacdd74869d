"""A page served to this machine alone, and the questions that it asks, with bounds on all that comes in.

A question is a POST of one JSON object to `/ask/NAME`: the arguments of a function of that name, which returns plain
values. What is wrong with one is said in one line, `{"error": ...}`, with status 400.
"""

import inspect
import json
import socket
import threading
import webbrowser
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer

from support.cli import UserError, complain, whole_number

ADDRESS = "127.0.0.1"
LARGEST_BODY = 64 * 1024  # bytes
MOST_AT_ONCE = 64  # connections; others wait to be accepted
SECONDS = 10  # in which a request must have arrived, and each piece of an answer must be taken
SHARED = "<!-- support/page.html -->"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
                               "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
                               "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin"}


def add_arguments(parser):
    """Give a command the options `--port` and `--no-browser`."""
    parser.add_argument("--port", type=whole_number(1024, 65535), default=None,
                        help="serve at this port of 127.0.0.1 (default: a free one)")
    parser.add_argument("--no-browser", action="store_true", help="print the address, and open no browser")


def read_page(path):
    """The page in the file `path`, bytes, with what both problems' pages share in the place of `SHARED`."""
    shared = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    return path.read_text(encoding="utf-8").replace(SHARED, shared).encode()


def serve(page, groups, port=None, browser=True):
    """Serve until Ctrl-C; see `Server` for the arguments.

    Raises:
        UserError: if the port cannot be had.
    """
    try:
        server = Server(page, groups, port or 0)
    except OSError as error:
        raise UserError(f"port {port} cannot be had ({error.strerror}): name another one with --port") from None
    with server:
        with suppress(KeyboardInterrupt):
            print(f"http://{ADDRESS}:{server.server_port}/   (Ctrl-C ends it)", flush=True)
            if browser:  # beside the server, for some browsers return only when they are closed
                threading.Thread(target=webbrowser.open, args=[f"http://{ADDRESS}:{server.server_port}/"],
                                 daemon=True).start()
            server.serve_forever()
        for lock in server.locks:
            lock.acquire(timeout=SECONDS)  # a model that still computes while Python ends can crash it


class Server(ThreadingHTTPServer):
    """Answers with the page and to questions.

    Args:
        page: the bytes of the page.
        groups: dicts of questions, `{name: function}`. Those of one group are answered one at a time, since they share
            a model.
        port: 0 for a free one.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, page, groups, port=0):
        self.page, self.slots = page, threading.Semaphore(MOST_AT_ONCE)
        self.locks = [threading.Lock() for _ in groups]
        self.questions = {name: (function, lock) for group, lock in zip(groups, self.locks)
                          for name, function in group.items()}
        super().__init__((ADDRESS, port), Handler)
        self.hosts = [f"{name}:{self.server_port}" for name in (ADDRESS, "localhost")]

    def server_bind(self):
        TCPServer.server_bind(self)  # HTTPServer's asks the network for a name of this machine, which can take long
        self.server_name, self.server_port = self.server_address

    def process_request(self, request, client_address):
        self.slots.acquire()
        super().process_request(request, client_address)

    def process_request_thread(self, request, client_address):
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.slots.release()


class Handler(BaseHTTPRequestHandler):
    """One request of one connection."""

    timeout = SECONDS

    def handle(self):
        self.arrival = threading.Timer(SECONDS, self.hang_up)
        self.arrival.daemon = True
        self.arrival.start()
        try:
            super().handle()
        except OSError:  # the other side is slow, or has gone
            pass
        except Exception as error:
            complain(f"a request ended in {type(error).__name__}: {error}")
        finally:
            self.arrival.cancel()

    def hang_up(self):
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def do_GET(self):
        if self.is_from_here():
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
        self.arrival.cancel()
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
        except Exception as error:  # never a traceback, neither here nor there
            complain(f"{name} ended in {type(error).__name__}: {error}")
            return self.send_error(500, f"this could not be computed ({type(error).__name__})")
        self.reply(200, content, "application/json")

    def is_from_here(self):
        """Whether the request names this server as its host, and comes from no other page: a foreign page that has its
        name resolved to 127.0.0.1 (DNS rebinding) says its own name. If not, it is refused."""
        host, origin = self.headers.get("Host"), self.headers.get("Origin")
        good = host in self.server.hosts and (origin is None or origin.removeprefix("http://") in self.server.hosts)
        if not good:
            self.send_error(403, f"ask http://{self.server.hosts[0]}/ from this machine")
        return good

    def reply(self, status, content, kind):
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **HEADERS}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def send_error(self, code, message=None, explain=None):
        line = " ".join((message or self.responses[code][0]).split())[:400]
        self.reply(code, (json.dumps({"error": line}) + "\n").encode(), "application/json")

    def log_message(self, *arguments):
        """Say nothing of good requests."""


def read_arguments(body, name, function):
    """The arguments of `function` in the JSON object `body`; UserError if it is none, or they are not those asked
    for."""
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
        raise UserError(f"{name} is asked with {wanted}, not {', '.join(arguments) or 'nothing'}") from None
    return arguments
