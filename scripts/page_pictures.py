"""Take the pictures of the page that stand in docs/images, light and dark: python scripts/page_pictures.py [FOLDER].

Needs the page built (`make page`), SmolLM2-135M and a Chromium (`scripts/browser`). About two minutes.
"""

import re
import sys
import tempfile
from io import BytesIO
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "web"))

from chromium import ARGUMENTS, find  # noqa: E402
from playwright.sync_api import Page, expect, sync_playwright  # noqa: E402
from serving import Server, serving  # noqa: E402

MINUTE = 60_000
SIZE = {"width": 1440, "height": 960}
TALL = {"width": 1440, "height": 1300}


def save(page: Page, path: Path) -> None:
    """One picture with 256 colours: half of the size, and nobody sees it."""
    page.wait_for_timeout(600)  # the canvas draws its background in slices
    picture = Image.open(BytesIO(page.screenshot())).convert("RGB")
    picture.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path.name} {path.stat().st_size:,} bytes", flush=True)


def experiment(page: Page, server: Server, graph: str) -> None:
    """Take the suggested groups and turn off the first that is about "small"."""
    server.open(page, f"#/graph/{graph}")
    page.get_by_role("button", name=re.compile("^Take the .* suggested groups")).click()
    circuit = page.get_by_role("region", name="Circuit", exact=True)
    circuit.get_by_role("button", name=re.compile('the word "small"')).first.click()
    page.get_by_role("button", name="Run the experiment").click()
    expect(page.get_by_role("region", name="Result of the experiment")).to_be_visible(timeout=3 * MINUTE)


def take(page: Page, server: Server, graphs: tuple[str, str], folder: Path, theme: str) -> None:
    """Every page in one theme."""
    small, hot = graphs

    def picture(name: str) -> None:
        save(page, folder / f"page-{name}{'' if theme == 'light' else '-dark'}.png")

    server.open(page)
    expect(page.get_by_role("button", name=re.compile("large .*%")).first).to_be_visible(timeout=MINUTE)
    picture("start")
    node = next(n["node"] for n in server.ask(f"graphs/{small}/nodes?query=small&limit=5") if n["kind"] == "feature")
    page.goto(f"{server.address}/#/graph/{small}?sel={node}")
    page.reload()
    expect(page.get_by_text("Where it fires").first).to_be_visible(timeout=MINUTE)
    picture("graph")
    page.set_viewport_size(TALL)
    page.get_by_role("button", name=re.compile("turned off")).first.click()
    expect(page.get_by_role("region", name="Result of the experiment")).to_be_visible()
    picture("circuit")
    page.set_viewport_size(SIZE)
    page.goto(f"{server.address}/#/features/20/1383?q=animal")
    expect(page.get_by_text("Where it fires").first).to_be_visible(timeout=MINUTE)
    picture("features")
    page.goto(f"{server.address}/#/compare?a={hot}&b={small}")
    expect(page.get_by_text(re.compile("Only", re.IGNORECASE)).first).to_be_visible(timeout=MINUTE)
    picture("compare")
    page.goto(f"{server.address}/#/steer?f=20:604:2")
    page.get_by_role("textbox").last.fill("Tell me where you went today.")
    page.get_by_role("textbox").last.press("Enter")
    expect(page.get_by_role("button", name="Stop", exact=True)).to_be_hidden(timeout=MINUTE)
    picture("steer")


def main(folder: Path) -> None:
    """Take all pictures into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as playwright:
        path = find(playwright)
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        with serving("--model", "smollm2-135m", folder=Path(scratch)) as server:
            server.wait_for_model()
            small = server.traced('The opposite of "small" is "', max_nodes=None, target="large", minus="small")
            hot = server.traced('The opposite of "hot" is "', max_nodes=None, target="cold", minus="hot")
            for theme in ("light", "dark"):
                context = browser.new_context(viewport=SIZE, color_scheme=theme, reduced_motion="reduce")
                page = context.new_page()
                if theme == "light":
                    experiment(page, server, small)
                take(page, server, (small, hot), folder, theme)
                context.close()
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "images")
