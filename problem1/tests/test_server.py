"""The server of the page: what it answers, what it refuses, and how it ends."""

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
from support.server import ADDRESS, LARGEST_BODY, SHARED, Server, read_page, serve

from tests.helpers import HOME, TemporaryFolder, serving


def double(number):
    if number == "bad":
        raise UserError("a bad\nnumber")
    return {"double": 2 * number, "share": 1 / number}


class Requests(unittest.TestCase):
    def setUp(self):
        self.server = self.enterContext(serving([{"double": double}]))
        self.request = self.server.request

    def test_there_is_the_page_and_nothing_else(self):
        for path in ("/", "/?a=347&b=159"):
            status, headers, content = self.request("GET", path)
            self.assertEqual((status, content), (200, b"page"))
            self.assertEqual(headers["Content-Type"], "text/html; charset=utf-8")
            self.assertIn("default-src 'none'", headers["Content-Security-Policy"])
        paths = {"GET": ["/x", "/../explore.py", "/ask/double"], "PUT": ["/"]}
        paths["POST"] = ["/", "/ask/", "/ask/none", "/double"]
        for method, path in [(name, path) for name in paths for path in paths[name]]:
            status, _, answer = self.request(method, path, b"{}")
            self.assertEqual(status, 501 if method == "PUT" else 404, (method, path))
            self.assertEqual(list(answer), ["error"])

    def test_a_question_is_answered_or_what_is_wrong_is_one_line(self):
        answer = self.request("POST", "/ask/double", b'{"number": 4}')
        self.assertEqual(answer[::2], (200, {"double": 8, "share": 0.25}))
        for body, words in [
            *((body, "no JSON object") for body in (b"", b"{", b"[4]", b"[" * 60_000, b"\xff")),
            (b"{}", "double is asked with number, not nothing"),
            (b'{"number": 1, "x": 2}', "not number, x"),
            (b'{"number": "bad"}', "a bad number"),
        ]:
            status, _, answer = self.request("POST", "/ask/double", body)
            self.assertEqual((status, list(answer)), (400, ["error"]))
            self.assertIn(words, answer["error"])
            self.assertNotIn("\n", answer["error"])

    def test_what_cannot_be_computed_is_said_in_one_line_here_and_there(self):
        with contextlib.redirect_stderr(io.StringIO()) as errors:
            status, _, answer = self.request("POST", "/ask/double", b'{"number": 0}')
        words = "this could not be computed (ZeroDivisionError)"
        self.assertEqual((status, answer), (500, {"error": words}))
        words = "error: double ended in ZeroDivisionError: division by zero\n"
        self.assertEqual(errors.getvalue(), words)

    def test_other_names_of_this_machine_and_other_pages_are_refused(self):
        port = self.server.server_port
        good = [("Host", f"localhost:{port}"), ("Origin", f"http://{ADDRESS}:{port}")]
        hosts = "attacker.example", f"attacker.example:{port}", ADDRESS, f"{ADDRESS}:{port + 1}", ""
        bad = [("Host", host) for host in hosts]
        bad += [("Origin", origin) for origin in ("null", "http://attacker.example")]
        for name, value in good + bad:
            for method, path in [("GET", "/"), ("POST", "/ask/double")]:
                body = b'{"number": 4}' if method == "POST" else None
                status = self.request(method, path, body, {name: value})[0]
                self.assertEqual(status, 200 if (name, value) in good else 403, value)

    def test_bodies_have_a_length_of_at_most_64_kilobytes(self):
        body = b'{"number": 4}'.ljust(LARGEST_BODY)
        self.assertEqual(len(body), 65_536)
        self.assertEqual(self.request("POST", "/ask/double", body)[0], 200)
        lengths = {LARGEST_BODY + 1: 413, 10**30: 413, "": 411, "-1": 411, "x": 411, "٣": 411}
        for length, status in lengths.items():
            headers = {"Content-Length": str(length).encode()}
            answer = self.request("POST", "/ask/double", None, headers)
            self.assertEqual(answer[0], status, length)

    def test_bytes_that_are_no_request_are_refused_without_a_traceback(self):
        with contextlib.redirect_stderr(io.StringIO()) as errors:
            for content in (
                b"\r\n\r\n",
                b"x\r\n\r\n",
                b"\xff" * 70_000,
                b"GET / HTTP/9.9\r\n\r\n",
                b"GET / HTTP/1.0\r\n" + b"x: y\r\n" * 200 + b"\r\n",
                b"POST /ask/double HTTP/1.0\r\n",
            ):
                address = ADDRESS, self.server.server_port
                with socket.create_connection(address, timeout=5) as client:
                    client.sendall(content)
                    client.shutdown(socket.SHUT_WR)
                    with contextlib.suppress(ConnectionError):
                        while client.recv(65_536):
                            pass
            self.assertEqual(self.request("GET", "/")[0], 200)
        self.assertEqual(errors.getvalue(), "")

    def test_questions_of_a_group_are_answered_one_at_a_time(self):
        busy, most = {"one": 0, "other": 0}, {"one": 0, "other": 0}

        def work(name):
            def question():
                busy[name] += 1
                most[name] = max(most[name], busy[name])
                time.sleep(0.005)
                busy[name] -= 1
                return name

            return question

        groups = [{"a": work("one"), "b": work("one")}, {"c": work("other")}]
        with serving(groups) as served, ThreadPoolExecutor(20) as pool:
            asked = [f"/ask/{'abc'[i % 3]}" for i in range(60)]
            replies = list(pool.map(lambda path: served.request("POST", path, b"{}"), asked))
        answers = [(status, answer) for status, _, answer in replies]
        self.assertEqual(answers, [(200, name) for name in ("one", "one", "other") * 20])
        self.assertEqual(most, {"one": 1, "other": 1})


class Serve(TemporaryFolder):
    def test_the_shared_part_stands_in_the_page(self):
        (self.folder / "page.html").write_text(f"<title>é</title>{SHARED}<main>", "utf-8")
        page = read_page(self.folder / "page.html").decode()
        self.assertTrue(page.startswith("<title>é</title><style>"))
        self.assertTrue(page.endswith("</script>\n<main>"))
        self.assertNotIn(SHARED, page)

    def test_a_port_that_is_taken_is_said(self):
        with Server(b"", []) as other:
            with self.assertRaisesRegex(UserError, f"port {other.server_port} is not free"):
                serve(b"", [], other.server_port, browser=False)

    def test_a_browser_is_opened_if_asked(self):
        opened = threading.Event()
        with (
            mock.patch.object(server.webbrowser, "open", side_effect=lambda _: opened.set()),
            mock.patch.object(Server, "serve_forever", side_effect=KeyboardInterrupt),
            contextlib.redirect_stdout(io.StringIO()),
        ):
            serve(b"", [], browser=False)
            self.assertFalse(opened.wait(0.05))
            serve(b"", [], browser=True)
            self.assertTrue(opened.wait(2))

    @unittest.skipUnless(os.name == "posix", "signals of POSIX")
    def test_ctrl_c_ends_it_without_a_word(self):
        code = (
            "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
            "from support.cli import run; from support.server import serve; "
            "run(lambda: serve(b'', [{}, {}], browser=False))"
        )
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        with subprocess.Popen([sys.executable, "-c", code], cwd=HOME, **pipes) as process:
            try:
                self.assertIn(f"http://{ADDRESS}:", process.stdout.readline())
                process.send_signal(signal.SIGINT)
                self.assertEqual(process.communicate(timeout=20), ("", ""))
                self.assertEqual(process.returncode, 130)
            finally:
                process.kill()
