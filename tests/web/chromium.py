"""A real browser for the tests of the page, and what it must not do in any of them."""

import os
import re
import shutil
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import ConsoleMessage, Page, Playwright, Request

ROOT = Path(__file__).resolve().parents[2]
AXE = ROOT / "web" / "node_modules" / "axe-core" / "axe.min.js"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run")
HERE = re.compile(r"^(https?://(127\.0\.0\.1|localhost|\[::1\])[:/]|data:|blob:|file:|about:)")


def find(playwright: Playwright) -> str | None:
    """The path of a Chromium that starts: the one named, the system's, or Playwright's own."""
    own = playwright.chromium.executable_path
    for name in (os.environ.get("LUCIDA_CHROMIUM"), *NAMES, own):
        path = shutil.which(name) if name else None
        # Ubuntu has a stub that only tells how to install it.
        if path and subprocess.run([path, "--version"], capture_output=True).returncode == 0:
            return path
    return None


def missing(what: str) -> None:
    """Skip, but fail where continuous integration counts on it."""
    if os.environ.get("CI"):
        pytest.fail(what)
    pytest.skip(what)


@dataclass
class Watch:
    """What a page said and asked for that it should not have."""

    problems: list[str] = field(default_factory=list)
    allowed: list[str] = field(default_factory=list)

    def allow(self, pattern: str) -> None:
        """Expect a problem that this pattern (a regular expression) is found in: the test provokes it."""
        self.allowed.append(pattern)

    def left(self) -> list[str]:
        """The problems that nobody expected."""
        return [problem for problem in self.problems if not any(re.search(p, problem) for p in self.allowed)]

    def follow(self, page: Page) -> None:
        """Note every console error or warning, uncaught error and request to elsewhere of a page."""

        def on_console(message: ConsoleMessage) -> None:
            if message.type in ("error", "warning"):
                self.problems.append(f"console {message.type}: {message.text} ({message.location.get('url', '')})")

        def on_request(request: Request) -> None:
            if not HERE.match(request.url):
                self.problems.append(f"a request left the machine: {request.url}")

        page.on("console", on_console)
        page.on("pageerror", lambda error: self.problems.append(f"uncaught: {error}"))
        page.on("request", on_request)


def check_accessible(page: Page) -> None:
    """No serious or critical violation by axe-core in the page as it stands, light and dark."""
    # Not a script tag: the page's content security policy would refuse it.
    page.evaluate(AXE.read_text("utf-8") + "; null")
    serious = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        page.wait_for_function("scheme => (document.documentElement.dataset.theme ?? scheme) === scheme", arg=scheme)
        page.evaluate(AT_REST)
        serious += [
            f"{scheme}: {violation['id']}: {violation['help']} at "
            + "; ".join(str(node["target"]) for node in violation["nodes"][:4])
            for violation in page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
            if violation["impact"] in ("serious", "critical")
        ]
    assert not serious, "\n".join(serious)


AT_REST = """async () => {
  await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))
  const ending = document.getAnimations().filter((one) => Number.isFinite(one.effect?.getComputedTiming().endTime))
  await Promise.all(ending.map((one) => one.finished.catch(() => null)))
}"""
"""Waits for a frame and for every transition to end: half-way between two colours nothing is readable."""


def distinct_colours(page: Page, selector: str = "canvas") -> int:
    """How many colours all canvases of the page show together; 1 is a blank one. Shadow roots are looked into."""
    return page.locator(selector).evaluate_all(COUNT_COLOURS)


def check_drawn(page: Page) -> None:
    """Wait until a graph is drawn: what shows more than ten colours is no blank canvas and no lone caption."""
    end = time.monotonic() + 30
    while distinct_colours(page) <= 10:
        assert time.monotonic() < end, "nothing is drawn"
        time.sleep(0.05)


COUNT_COLOURS = """canvases => {
  const seen = new Set()
  for (const canvas of canvases) {
    if (!canvas.width || !canvas.height) continue
    // Read from a copy: reading the page's own again and again would slow it down, and the browser would say so.
    const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext('2d', { willReadFrequently: true })
    copy.drawImage(canvas, 0, 0)
    const pixels = copy.getImageData(0, 0, canvas.width, canvas.height).data
    const words = new Uint32Array(pixels.buffer)
    for (let i = 0; i < words.length; i += 7) seen.add(words[i])
  }
  return seen.size
}"""
