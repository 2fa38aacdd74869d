"""Pages as headless Chromium shows them after their scripts have run. Same in both folders."""

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
# Does something on the page when it has all its answers, and again when it has those to that.
THEN = """<script>let done = [%s];
setInterval(() => document.body.dataset.waiting === '0' && done.shift()?.(), 300)</script>"""
# Narrows the page to 400 pixels, and says in its title which elements stand out of it.
NARROW = """() => {
  document.documentElement.style.width = '400px'; dispatchEvent(new Event('resize'));
}, () => {
  const outside = element => !element.closest('.scroll, details')
    && element.getBoundingClientRect().right > 401;
  document.title = 'out: ' + [...document.querySelectorAll('main *')].filter(outside)
    .map(element => element.tagName + '#' + element.id);
}"""


def run(address, *options):
    """Run Chromium on an address; returns its standard output.

    Raises:
        SkipTest: if there is no Chromium.
    """
    browser = next(filter(None, map(shutil.which, NAMES)), None)
    if browser is None:
        raise unittest.SkipTest(f"no browser: none of {', '.join(NAMES)} is installed")
    root = os.name == "posix" and os.geteuid() == 0  # root may not use the sandbox
    options = [*options, *(["--no-sandbox"] if root else [])]
    with tempfile.TemporaryDirectory() as profile:
        options += ["--headless", "--disable-gpu", "--hide-scrollbars"]
        options += [f"--user-data-dir={profile}", "--virtual-time-budget=20000"]
        done = subprocess.run(
            [browser, *options, address], capture_output=True, timeout=SECONDS, check=True
        )
    return done.stdout.decode()


class Page(HTMLParser):
    """The elements of a page: dicts of their attributes, of `tag` and of `text`."""

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
        """The elements with these attributes, `_` for `-`; None stands for any value."""
        wanted = {name.replace("_", "-"): value for name, value in attributes.items()}
        return [
            element
            for element in self.elements
            if all(
                name in element and value in (None, element[name]) for name, value in wanted.items()
            )
        ]

    def text(self, id):
        return " ".join(self.all(id=id)[0]["text"].split())

    def title(self):
        return next(element["text"] for element in self.elements if element["tag"] == "title")


def show(server, query="", then=""):
    """The `Page` at an address of a server; the JavaScript functions `then` run on it in turn."""
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
    """Save a picture of the page at an address, 1280 pixels wide, to results/beyond/."""
    path = RESULTS / "beyond" / "explore.png"
    address = f"http://{ADDRESS}:{server.server_port}/?{query}"
    run(address, f"--screenshot={path}", f"--window-size=1280,{height}")
    print(path, file=sys.stderr)
