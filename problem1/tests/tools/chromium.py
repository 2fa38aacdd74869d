"""Pages as a real browser shows them: headless Chromium, which prints the page as it is after its scripts have run."""

import os
import shutil
import subprocess
import sys
import tempfile
import unittest
from html.parser import HTMLParser

from support.server import ADDRESS
from tests.helpers import RESULTS

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
SECONDS = 60
# Does something on the page when it has all its answers, and again when it has those to what was done.
THEN = """<script>let done = [%s];
setInterval(() => document.body.dataset.waiting === '0' && done.shift()?.(), 300)</script>"""
# Narrows the page to 400 pixels, and says in its title which elements stand out of it.
NARROW = """() => { document.documentElement.style.width = '400px'; dispatchEvent(new Event('resize')); }, () => {
  document.title = 'out: ' + [...document.querySelectorAll('main *')].filter(element =>
    !element.closest('.scroll, details') && element.getBoundingClientRect().right > 401).map(element =>
    element.tagName + '#' + element.id); }"""


def run(address, *options):
    """Run Chromium on an address; returns its standard output.

    Raises:
        SkipTest: if there is no Chromium.
    """
    browser = next(filter(None, map(shutil.which, NAMES)), None)
    if browser is None:
        raise unittest.SkipTest(f"no browser: none of {', '.join(NAMES)} is installed")
    sandbox = ["--no-sandbox"] if os.name == "posix" and os.geteuid() == 0 else []  # which root may not use
    with tempfile.TemporaryDirectory() as profile:
        command = [browser, "--headless", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={profile}",
                   "--virtual-time-budget=20000", *sandbox, *options, address]
        return subprocess.run(command, capture_output=True, timeout=SECONDS, check=True).stdout.decode()


class Page(HTMLParser):
    """The elements of a page, each a dict of its attributes, with its name as `tag` and its text as `text`."""

    VOID = {"meta", "link", "input", "br"}

    def __init__(self, text):
        super().__init__()
        self.elements, self.open = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        element = {name: value or "" for name, value in attributes} | {"tag": tag, "text": ""}
        self.elements.append(element)
        if tag not in self.VOID:
            self.open.append(element)

    def handle_endtag(self, tag):
        while self.open and self.open.pop()["tag"] != tag:
            pass

    def handle_data(self, text):
        for element in self.open:
            element["text"] += text

    def all(self, **attributes):
        """The elements that have these attributes, `_` for `-`; any value if it is None."""
        wanted = {name.replace("_", "-"): value for name, value in attributes.items()}
        return [element for element in self.elements
                if all(name in element and value in (None, element[name]) for name, value in wanted.items())]

    def text(self, id):
        return " ".join(self.all(id=id)[0]["text"].split())


def show(server, query="", then=""):
    """The `Page` of a server at an address, after the functions of JavaScript `then` have run on it in turn."""
    page = server.page
    server.page += (THEN % then).encode()
    try:
        shown = Page(run(f"http://{ADDRESS}:{server.server_port}/?{query}", "--dump-dom"))
    finally:
        server.page = page
    if shown.all(data_waiting="0") == []:
        raise AssertionError("the page still waits for an answer")
    return shown


def take_picture(server, query, height):
    """Save a picture of the page at an address, 1280 pixels wide, as results/explore.png."""
    path = RESULTS / "explore.png"
    run(f"http://{ADDRESS}:{server.server_port}/?{query}", f"--screenshot={path}", f"--window-size=1280,{height}")
    print(path, file=sys.stderr)
