"""The server of the page: what it answers, what it refuses, and that nobody can hold it up."""

import contextlib
import io
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import unittest
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

from support import server
from support.cli import UserError
from support.server import ADDRESS, LARGEST_BODY, SHARED, Handler, Server, read_page, serve
from tests.helpers import RESULTS, TemporaryFolder, serving


def double(number):
    if number == "bad":
        raise UserError("a bad\nnumber")
    return {"double": 2 * number, "share": 1 / number}


class Requests(unittest.TestCase):
    def setUp(self):
        self.server = self.enterContext(serving([{"double": double}]))
        self.request = self.server.request

    def test_the_page_and_nothing_else_is_to_be_had(self):
        for path in ("/", "/?a=347&b=159"):
            status, headers, content = self.request("GET", path)
            self.assertEqual((status, headers["Content-Type"], content), (200, "text/html; charset=utf-8", b"page"))
            self.assertIn("default-src 'none'", headers["Content-Security-Policy"])
        for method, path in [("GET", "/x"), ("GET", "/../explore.py"), ("GET", "/ask/double"),
                             ("POST", "/"), ("POST", "/ask/"), ("POST", "/ask/none"), ("POST", "/double")]:
            self.assertEqual(self.request(method, path, b"{}")[::2], (404, {"error": "Not Found"}), (method, path))
        for method in ("PUT", "DELETE", "OPTIONS"):
            self.assertEqual(self.request(method, "/")[0], 501)

    def test_a_question_is_answered(self):
        answer = self.request("POST", "/ask/double", b'{"number": 4}')
        self.assertEqual(answer[::2], (200, {"double": 8, "share": 0.25}))

    def test_what_is_wrong_with_a_question_is_one_line(self):
        for body, words in [(b"", "no JSON object"), (b"{", "no JSON object"), (b"[4]", "no JSON object"),
                            (b"[" * 60_000, "no JSON object"), (b"\xff", "no JSON object"),
                            (b"{}", "double is asked with number, not nothing"),
                            (b'{"number": 1, "x": 2}', "not number, x"), (b'{"number": "bad"}', "a bad number")]:
            status, _, answer = self.request("POST", "/ask/double", body)
            self.assertEqual((status, list(answer)), (400, ["error"]))
            self.assertIn(words, answer["error"])
            self.assertNotIn("\n", answer["error"])

    def test_what_cannot_be_computed_is_said_in_one_line_here_and_there(self):
        with contextlib.redirect_stderr(io.StringIO()) as errors:
            status, _, answer = self.request("POST", "/ask/double", b'{"number": 0}')
        self.assertEqual((status, answer), (500, {"error": "this could not be computed (ZeroDivisionError)"}))
        self.assertEqual(errors.getvalue(), "error: double ended in ZeroDivisionError: division by zero\n")

    def test_other_names_of_this_machine_and_other_pages_are_refused(self):
        port = self.server.server_port
        for headers, expected in [({"Host": f"localhost:{port}"}, 200), ({"Host": "attacker.example"}, 403),
                                  ({"Host": f"attacker.example:{port}"}, 403), ({"Host": ADDRESS}, 403),
                                  ({"Host": f"{ADDRESS}:{port + 1}"}, 403), ({"Host": ""}, 403),
                                  ({"Origin": f"http://{ADDRESS}:{port}"}, 200), ({"Origin": "null"}, 403),
                                  ({"Origin": "http://attacker.example"}, 403)]:
            for method, path, body in [("GET", "/", None), ("POST", "/ask/double", b'{"number": 4}')]:
                self.assertEqual(self.request(method, path, body, headers)[0], expected, headers)

    def test_bodies_have_a_length_of_at_most_64_kilobytes(self):
        self.assertEqual(LARGEST_BODY, 65_536)
        body = b'{"number": 4}'
        self.assertEqual(self.request("POST", "/ask/double", body.ljust(LARGEST_BODY))[0], 200)
        for length, status in [(LARGEST_BODY + 1, 413), (10 ** 30, 413), ("", 411), ("-1", 411), ("x", 411),
                               ("٣", 411)]:
            headers = {"Content-Length": str(length).encode()}
            self.assertEqual(self.request("POST", "/ask/double", None, headers)[0], status, length)

    def test_bytes_that_are_no_request_are_refused_without_a_traceback(self):
        with contextlib.redirect_stderr(io.StringIO()) as errors:
            for content in (b"\r\n\r\n", b"x\r\n\r\n", b"\xff" * 70_000, b"GET / HTTP/9.9\r\n\r\n",
                            b"GET / x y z\r\n\r\n", b"GET / HTTP/1.0\r\n" + b"x: y\r\n" * 200 + b"\r\n",
                            b"POST /ask/double HTTP/1.0\r\n"):
                with socket.create_connection((ADDRESS, self.server.server_port), timeout=5) as client:
                    client.sendall(content)
                    client.shutdown(socket.SHUT_WR)
                    with contextlib.suppress(ConnectionError):
                        while client.recv(65_536):
                            pass
            self.assertEqual(self.request("GET", "/")[0], 200)
        self.assertEqual(errors.getvalue(), "")


class Load(unittest.TestCase):
    def test_twenty_at_once_are_answered_and_a_group_works_on_one_at_a_time(self):
        busy, most, lock = {"one": 0, "other": 0}, {"one": 0, "other": 0}, threading.Lock()

        def work(name):
            def question():
                with lock:
                    busy[name] += 1
                    most[name] = max(most[name], busy[name])
                time.sleep(0.005)
                with lock:
                    busy[name] -= 1
                return name
            return question
        groups = [{"a": work("one"), "b": work("one")}, {"c": work("other")}]
        with serving(groups) as served, ThreadPoolExecutor(20) as pool:
            replies = list(pool.map(lambda i: served.request("POST", f"/ask/{'abc'[i % 3]}", b"{}"), range(60)))
        self.assertEqual([(status, answer) for status, _, answer in replies],
                         [(200, ("one", "one", "other")[i % 3]) for i in range(60)])
        self.assertEqual(most, {"one": 1, "other": 1})

    def test_a_slow_client_is_left_and_makes_room_for_others(self):
        with mock.patch.object(server, "SECONDS", 0.3), mock.patch.object(Handler, "timeout", 0.3), \
                mock.patch.object(server, "MOST_AT_ONCE", 2), serving([{"double": double}]) as served:
            address = ADDRESS, served.server_port
            with socket.create_connection(address) as silent, socket.create_connection(address) as dripping:
                start = time.monotonic()
                dripping.sendall(f"POST /ask/double HTTP/1.0\r\nHost: {ADDRESS}:{served.server_port}\r\n"
                                 "Content-Length: 1000\r\n\r\n".encode())
                with ThreadPoolExecutor(1) as pool:
                    third = pool.submit(served.request, "GET", "/")
                    with contextlib.suppress(ConnectionError):
                        while time.monotonic() - start < 5:  # never silent for as long as it may be
                            dripping.sendall(b" ")
                            time.sleep(0.05)
                    self.assertLess(time.monotonic() - start, 3)
                    self.assertEqual(third.result()[0], 200)
                self.assertEqual(silent.recv(10), b"")


class Serve(TemporaryFolder):
    def test_the_shared_part_stands_in_the_page(self):
        (self.folder / "page.html").write_text(f"<title>é</title>{SHARED}<main>")
        page = read_page(self.folder / "page.html").decode()
        self.assertTrue(page.startswith("<title>é</title><style>") and page.endswith("</script>\n<main>"))
        self.assertNotIn(SHARED, page)

    def test_a_port_that_is_taken_is_said(self):
        with Server(b"", []) as other, self.assertRaisesRegex(UserError, f"port {other.server_port} cannot be had"):
            serve(b"", [], other.server_port, browser=False)

    def test_the_browser_is_opened_unless_it_is_not_to_be(self):
        for browser in (True, False):
            opened = threading.Event()
            with mock.patch.object(server.webbrowser, "open", side_effect=lambda address: opened.set()) as opener, \
                    mock.patch.object(Server, "serve_forever", side_effect=KeyboardInterrupt), \
                    contextlib.redirect_stdout(io.StringIO()) as output:
                serve(b"", [], browser=browser)
                self.assertEqual(opened.wait(2 if browser else 0.05), browser)
            if browser:
                opener.assert_called_once_with(output.getvalue().split()[0])

    @unittest.skipUnless(os.name == "posix", "signals of POSIX")
    def test_ctrl_c_ends_it_without_a_word(self):
        code = ("from support.cli import run; from support.server import serve; "
                "run(lambda: serve(b'', [{}, {}], browser=False))")
        process = subprocess.Popen([sys.executable, "-c", code], cwd=RESULTS.parent, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, text=True,
                                   preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
        try:
            self.assertIn(f"http://{ADDRESS}:", process.stdout.readline())
            process.send_signal(signal.SIGINT)
            self.assertEqual((process.communicate(timeout=20), process.returncode), (("", ""), 0))
        finally:
            process.kill()


if __name__ == "__main__":
    unittest.main()
