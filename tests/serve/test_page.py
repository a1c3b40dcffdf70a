"""The page of ``tokenring-xdit serve --ui`` in a real browser, on a server that users start, with two ranks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.bench.report.wcag import contrast
from tests.serve.client import Client, pixels
from tests.serve.servers import Served, served, until
from tests.support.browser import Browser, browser, needs_browser

for package in ("fastapi", "uvicorn", "prometheus_client"):
    pytest.importorskip(package)

pytestmark = [pytest.mark.e2e, needs_browser]

KEY = "open sesame"
PROMPT = "a red circle left of a blue square"
FAR = 20_000  # steps: minutes longer than a test
SCREENS = [(1280, "light"), (390, "dark")]

SHOWN = """const shown = document.getElementById('picture'), canvas = document.createElement('canvas');
           [canvas.width, canvas.height] = [shown.naturalWidth, shown.naturalHeight];
           const context = canvas.getContext('2d');
           context.drawImage(shown, 0, 0);
           return [shown.naturalHeight, shown.naturalWidth,
                   [...context.getImageData(0, 0, canvas.width, canvas.height).data]]"""

COLOURS = """return [...document.querySelectorAll('h1, h2, p, dt, dd, th, td, label, button, figcaption, .button')]
             .filter((each) => each.offsetParent && each.textContent.trim() && !each.disabled).map((each) => {
               let behind = each;
               while (getComputedStyle(behind).backgroundColor === 'rgba(0, 0, 0, 0)') behind = behind.parentElement;
               return [getComputedStyle(each).color, getComputedStyle(behind).backgroundColor]; })"""


class Page(Browser):
    """The page."""

    def fill(self, **fields: str) -> None:
        """Type into fields, which are empty before."""
        for name, text in fields.items():
            self.find(f"#{name}").clear()
            self.find(f"#{name}").send_keys(text)

    def click(self, selector: str) -> None:
        """Click on something, wherever it is on the page."""
        self.run("arguments[0].scrollIntoView({block: 'center'})", self.find(selector))
        self.find(selector).click()

    def begin(self, **fields: str) -> None:
        """Have something drawn that takes longer than a test; returns once it was seen."""
        self.fill(prompt=PROMPT, steps=str(FAR), **fields)
        self.click("#begin")
        self.until("document.querySelector('#made.partial #picture')?.naturalWidth > 0")

    def wait_for(self, selector: str) -> str:
        """What an element says, once it is seen and says something."""
        self.until(f"document.querySelector('{selector}')?.offsetParent && {self._text(selector)}")
        return str(self.run(f"return {self._text(selector)}"))

    def idle(self) -> None:
        """Wait until nothing is drawn any more."""
        self.until("!document.getElementById('begin').disabled")

    def fits(self) -> bool:
        """Whether there is nothing to scroll to the side."""
        return bool(self.run("return document.documentElement.scrollWidth <= window.innerWidth"))

    def least_contrast(self) -> float:
        """Of all words that are seen."""
        pairs = self.run(COLOURS)
        assert len(pairs) > 5
        return min(contrast(rgb(text), rgb(behind)) for text, behind in pairs)

    @staticmethod
    def _text(selector: str) -> str:
        return f"document.querySelector('{selector}').textContent.trim()"


def rgb(colour: str) -> str:
    return "#{:02X}{:02X}{:02X}".format(*(int(part) for part in re.findall(r"\d+", colour)[:3]))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    words = ("embedded", "tokenring_degree=2", "--ui", "--max-steps", str(FAR))
    with served(tmp_path_factory.mktemp("server"), "embedded", *words, key=KEY) as found:
        yield found


@pytest.fixture(scope="module")
def client(server: Served) -> Client:
    return server[1]


@pytest.fixture(scope="module")
def page(client: Client, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """The page, once the key was entered."""
    with browser(tmp_path_factory.mktemp("browser")) as driver:
        found = Page(driver)
        found.visit(f"http://127.0.0.1:{client.port}/")
        found.wait_for("#login label")
        found.fill(key="sesame\n")
        assert found.wait_for("#login .mistake") == "This is not its key."
        assert not any(found.find(f"#{tab}").is_displayed() for tab in ("tabs", "draw", "watch"))
        found.fill(key=f"{KEY}\n")
        assert found.wait_for("#model") == "embedded"
        assert not found.find("#login").is_displayed()
        yield found


def newest(client: Client) -> Any:
    return client.ask("GET", "/v1/requests?limit=1").json["data"][0]


@pytest.fixture
def drawing(page: Page, client: Client) -> Iterator[Page]:
    """The page on a wide screen, before anything is asked for."""
    page.visit(f"http://127.0.0.1:{client.port}/")
    page.wait_for("#begin")
    yield page
    page.driver.get("about:blank")
    until(lambda: newest(client)["status"] not in {"queued", "running"})


def test_a_picture_is_drawn_with_previews_and_is_the_one_of_the_api(drawing: Page, client: Client) -> None:
    drawing.run(
        """window.seen = [];
           const note = (changes) => changes.forEach((each) => seen.push(...[...each.addedNodes].map((n) => n.data)));
           new MutationObserver(note).observe(document.getElementById('caption'), {childList: true});"""
    )
    drawing.fill(prompt=PROMPT, size="64x64", steps="4", seed="5")
    drawing.click("#begin")
    drawing.wait_for("#save")
    assert drawing.run("return seen")[:3] == ["Preview 1", "Preview 2", "Preview 3"]
    assert drawing.wait_for("#caption").startswith("64x64, seed 5")
    height, width, found = drawing.run(SHOWN)
    answer = client.draw(prompt=PROMPT, size="64x64", steps=4, seed=5)
    expected = pixels(answer.json["data"][0]["b64_json"])
    assert np.array_equal(np.array(found).reshape(height, width, 4)[..., :3], expected)
    own = (f"http://127.0.0.1:{client.port}/", "blob:", "data:")
    asked = drawing.asked()
    assert len(asked) > 8 and [url for url in asked if not url.startswith(own)] == []
    said = drawing.driver.get_log("browser")
    assert [each for each in said if each["source"] in {"javascript", "security"}] == []


def test_what_is_wrong_is_said_beside_its_field(drawing: Page) -> None:
    drawing.click("#begin")
    assert drawing.wait_for("[data-field=prompt] .mistake") == "prompt: is missing"
    drawing.fill(prompt=PROMPT)
    assert not drawing.find("[data-field=prompt] .mistake").is_displayed()
    for field, value in {"steps": "0", "size": "64x65", "seed": "-1", "guidance": "-1"}.items():
        drawing.fill(**{field: value})
        drawing.click("#begin")
        assert field in drawing.wait_for(f"[data-field={field}] .mistake")
        drawing.find(f"#{field}").clear()


def test_cancel_gives_it_up_between_steps(drawing: Page, client: Client) -> None:
    drawing.begin()
    drawing.click("#cancel")
    assert re.fullmatch(rf"Cancelled at step \d+ of {FAR}\.", drawing.wait_for("#problem"))
    over = newest(client)
    assert over["status"] == "cancelled" and 0 < over["step"] < FAR
    drawing.idle()


def test_a_page_that_is_closed_is_not_drawn_for(drawing: Page, client: Client) -> None:
    drawing.begin()
    name = newest(client)["id"]
    assert client.status(name)["status"] == "running"
    drawing.driver.get("about:blank")
    until(lambda: client.status(name)["status"] == "cancelled")


def test_watch_shows_the_queue_the_ranks_and_the_times(drawing: Page, client: Client) -> None:
    for _ in range(2):
        assert client.draw(steps=3, size="64x64").status == 200  # the first one teaches the forecast
    drawing.begin()
    other = client.begin("other", steps=2)
    drawing.click("[data-tab=watch]")
    words = "[...tile.children].map((each) => each.textContent)"
    tiles = f"Object.fromEntries([...document.querySelectorAll('#counts div')].map((tile) => {words}))"
    drawing.until(f"({tiles}).Waiting === '1' && ({tiles}).Running === '1'")
    assert int(drawing.run(f"return ({tiles}).Done")) >= 2
    ranks = (
        "return [...document.querySelectorAll('#ranks tbody tr')].map((r) => [...r.cells].map((c) => c.textContent))"
    )
    (first, second) = drawing.run(ranks)
    assert (first[:2], second[:2]) == (["0", "up"], ["1", "up"])
    assert all(re.fullmatch(r"\d+ MiB|\d+\.\d GiB", memory) for _, _, memory in (first, second))
    assert drawing.find("#world").text == "Schedule token_ring, 2 TokenRing x 1 Ulysses."
    assert re.match(r"[\d.]+ m?s a step on average, of \d+ steps\.", drawing.find("#times-words").text)
    assert re.match(
        r"Requests took [\d.]+ times what was forecast, on average of \d+\.", drawing.find("#forecast").text
    )
    row = drawing.run("return [...document.querySelector('#requests tbody tr').cells].map((c) => c.textContent)")
    assert row[:4] == ["other", "image", "queued", "0 of 2"]
    client.ask("DELETE", "/v1/requests/other")
    assert client.answer(other).status == 499


def test_watch_shows_gpus_that_tell_no_memory(drawing: Page) -> None:
    told = ('hw_gpu_memory_usage_bytes{gpu="0"} 1073741824', 'hw_gpu_memory_limit_bytes{gpu="0"} 4294967296')
    told = ('hw_gpu_utilization_ratio{gpu="1"} 0.25', *told, 'hw_gpu_utilization_ratio{gpu="0"} 0.5')
    more = "\\n".join(("", *told, "")).replace('"', '\\"')
    drawing.run(
        f"""const theirs = window.fetch;
            window.fetch = async (path, said) => {{
              const answer = await theirs(path, said);
              return path === "metrics" ? new Response(await answer.text() + "{more}") : answer; }};"""
    )
    drawing.click("[data-tab=watch]")
    drawing.wait_for("#gpus tbody td")
    rows = "return [...document.querySelectorAll('#gpus tbody tr')].map((r) => [...r.cells].map((c) => c.textContent))"
    assert drawing.run(rows) == [["0", "50 %", "1.0 GiB", "4.0 GiB", ""], ["1", "25 %", "", "", ""]]


@pytest.mark.parametrize(("width", "theme"), SCREENS)
def test_it_fits_phones_and_both_themes(drawing: Page, width: int, theme: str) -> None:
    drawing.resize(width)
    drawing.look(theme)
    drawing.begin()
    assert drawing.fits() and drawing.least_contrast() >= 4.5
    drawing.click("#cancel")
    drawing.wait_for("#problem")
    assert drawing.fits() and drawing.least_contrast() >= 4.5
    drawing.click("[data-tab=watch]")
    drawing.wait_for("#requests td:not(.wide)")
    assert drawing.fits() and drawing.least_contrast() >= 4.5
