"""The report in a real browser, from ``file://``: drawn, sorted, filtered, zoomed, printed, never on the network."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select

from tests.bench.report import samples
from tests.bench.report.samples import record
from tests.bench.report.wcag import contrast
from tests.support.browser import Browser, browser, needs_browser
from tokenring_xdit.bench import Status
from tokenring_xdit.bench.report import write_report
from tokenring_xdit.bench.report.palette import BACKGROUNDS

pytestmark = [pytest.mark.e2e, needs_browser]

PRINTED = 690  # pixels: the width of a plot on paper
HOSTILE = "<script>window.pwned = 1</script><img src=x onerror='window.pwned = 1'>"


class Page(Browser):
    """A report in the browser."""

    def open(self, path: Path, *, width: int = 1280, theme: str = "light") -> None:
        """Load a report."""
        self.visit(path.as_uri(), width=width, theme=theme)
        self.drawn()

    def drawn(self) -> None:
        """Wait until all plots are as was last asked."""
        self.until("!document.querySelector('figure[aria-busy]')")

    def headers(self) -> list[str]:
        """Titles of the table's columns."""
        return [header.text.strip() for header in self.all("#table th button")]

    def column(self, title: str) -> list[str]:
        """What a column says, in the rows that are shown."""
        script = """return [...document.querySelectorAll('#table tbody tr')].filter((row) => row.offsetParent)
                    .map((row) => row.cells[arguments[0]].textContent.trim())"""
        found: list[str] = self.run(script, self.headers().index(title))
        return found

    def marks(self, title: str) -> int:
        """Points, bars or cells in the plot of that title."""
        script = """const figure = [...document.querySelectorAll('figure')]
                      .find((each) => each.querySelector('h3').textContent.startsWith(arguments[0]));
                    return figure.querySelectorAll('.points_marks path').length"""
        return int(self.run(script, title))

    def assert_clean(self) -> None:
        """Nothing in the console, nothing asked of the network, nothing run that came out of the results."""
        assert self.driver.get_log("browser") == []
        asked = self.asked()
        assert len([url for url in asked if url.startswith("file://")]) == 1
        assert [url for url in asked if not url.startswith(("file://", "data:", "blob:"))] == []
        assert self.run("return window.pwned") is None


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("browser")) as driver:
        yield Page(driver)


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Several lengths and ranks, two networks, and timelines."""
    folder = tmp_path_factory.mktemp("lines")
    records = [*samples.sweep((1024, 2048, 4096), (2, 4)), record([1.0, 1.1, 1.2]), record([2.0] * 3, "xfuser-ring")]
    timelines = {
        f"schedule:{name}": samples.timeline(name, wait=wait) for name, wait in (("ring", 0.1), ("direct", 0.02))
    }
    return report(folder, samples.write(folder, records, timelines))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    failed = record(None, "ulysses", Status.FAILED, error=HOSTILE)
    ran = [record([1.0] * 3, name, machine={"cpu": HOSTILE}, command=HOSTILE) for name in (HOSTILE, "a' \"b")]
    records = [*ran, failed]
    return report(folder, samples.write(folder, records, {HOSTILE: samples.timeline(HOSTILE)}, network=HOSTILE))


def report(folder: Path, results: Path) -> Path:
    write_report(results, folder / "report.html")
    return folder / "report.html"


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 375])
def test_plots_are_drawn_in_every_width_and_theme(page: Page, lines: Path, width: int, theme: str) -> None:
    page.open(lines, width=width, theme=theme)
    assert page.marks("Time of one call") == 6 * 3 - 2  # one case was refused, one failed
    assert page.marks("Speed-up") == 6 * 2 - 1  # and what failed was the baseline of a length
    assert page.marks("Memory") == 6 * 3 - 2
    assert page.marks("Bytes on every link") == 5 * 12  # six links, each both ways
    assert page.marks("ring") == len(samples.timeline("ring").spans)
    for plot in page.all(".plot"):
        assert 0 < plot.size["width"] <= width and plot.size["height"] > 100
    assert page.run("return document.documentElement.scrollWidth") <= width
    assert page.run("return [...document.querySelectorAll('.plot')].every((p) => p.scrollWidth <= p.clientWidth)")
    paper = page.run("return getComputedStyle(document.querySelector('.plot svg.marks')).backgroundColor")
    assert rgb(paper) == BACKGROUNDS[theme == "dark"]
    page.assert_clean()


def rgb(colour: str) -> str:
    return "#{:02X}{:02X}{:02X}".format(*(int(part) for part in re.findall(r"\d+", colour)[:3]))


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_stands_out_from_what_is_behind_it(page: Page, lines: Path, theme: str) -> None:
    page.open(lines, theme=theme)
    script = """return [...document.querySelectorAll(arguments[0])].map((element) => {
                  let behind = element;
                  while (getComputedStyle(behind).backgroundColor === 'rgba(0, 0, 0, 0)') behind = behind.parentElement;
                  return [getComputedStyle(element).color, getComputedStyle(behind).backgroundColor]; })"""
    pairs = page.run(
        script, "h1, h2, h3, .sub, .brand, a, th, td, .status, .cautions li, figcaption, .chip, dt, dd, label"
    )
    assert len(pairs) > 100
    assert min(contrast(rgb(text), rgb(behind)) for text, behind in pairs) >= 4.5
    Select(page.find("#view")).select_by_visible_text("2048 tokens, 2 ranks")
    page.drawn()
    drawn = page.run("return [...document.querySelectorAll('.plot text')].map((text) => getComputedStyle(text).fill)")
    assert len(drawn) > 100
    assert min(contrast(rgb(text), BACKGROUNDS[theme == "dark"]) for text in drawn) >= 4.5


def test_a_change_of_theme_reaches_the_plots(page: Page, lines: Path) -> None:
    page.open(lines)
    script = "return document.querySelector('#grid svg.marks').style.backgroundColor"
    before = page.run(script)
    page.look("dark")
    page.until(f"document.querySelector('#grid svg.marks').style.backgroundColor !== '{before}'")
    page.drawn()
    assert rgb(page.run(script)) == BACKGROUNDS[1]
    page.assert_clean()


def test_headers_sort_up_and_down_and_keep_what_is_missing_last(page: Page, lines: Path) -> None:
    page.open(lines)
    unsorted = page.column("ms")
    button = page.find("#table th.number:nth-child(3) button")
    for direction in ("ascending", "descending"):
        header = page.all("#table th")[page.headers().index("ms")]
        header.find_element(By.TAG_NAME, "button").click()
        assert header.get_attribute("aria-sort") == direction
        found = page.column("ms")
        present = [float(text) for text in found if text]
        assert present == sorted(present, reverse=direction == "descending")
        assert found[len(present) :] == [""] * (len(found) - len(present)) and len(present) < len(found)
        assert sorted(found) == sorted(unsorted) and found != unsorted
    button.click()
    assert [h.get_attribute("aria-sort") for h in page.all("#table th")].count("none") == len(page.headers()) - 1
    page.all("#table th button")[0].click()
    names = page.column("strategy")
    assert names == sorted(names)
    page.assert_clean()


def test_the_filter_hides_rows_that_lack_a_word(page: Page, lines: Path) -> None:
    page.open(lines)
    everything = page.column("strategy")
    page.find("#filter").send_keys("TOKEN_RING 2048")
    assert set(page.column("strategy")) == {"schedule:token_ring"}
    assert set(page.column("tokens")) == {"2048"}
    assert page.find("#shown").text == f"2 of {len(everything)} cases"
    page.find("#filter").clear()
    page.find("#filter").send_keys("signal 9")
    assert page.column("status") == ["failed"]
    page.run("const box = arguments[0]; box.value = ''; box.dispatchEvent(new Event('input'))", page.find("#filter"))
    assert page.column("strategy") == everything
    page.assert_clean()


def test_settings_views_and_strategies_are_chosen(page: Page, lines: Path) -> None:
    page.open(lines)
    titles = "return [...document.querySelectorAll('#grid h3')].map((title) => title.textContent)"
    view = Select(page.find("#view"))
    assert [option.text for option in view.options][:3] == [
        "over sequence lengths, 4 ranks",
        "over sequence lengths, 2 ranks",
        "over ranks, 4096 tokens",
    ]
    view.select_by_visible_text("2048 tokens, 2 ranks")
    page.drawn()
    assert "Where the time goes" in page.run(titles)
    assert page.marks("Time of one call") == 6
    page.find(".chip[data-strategy='ulysses']").click()
    assert page.find(".chip[data-strategy='ulysses']").get_attribute("aria-pressed") == "false"
    page.drawn()
    assert page.marks("Time of one call") == 5
    Select(page.find("#setting")).select_by_index(1)
    page.drawn()
    assert page.marks("Time of one call") == 2
    assert "Bytes on every link" not in page.run(titles)  # nobody counted any on a loopback
    assert not page.find("#view-label").is_displayed()
    page.assert_clean()


def test_timelines_zoom_together(page: Page, lines: Path) -> None:
    page.open(lines)
    ranges = "return [...document.querySelectorAll('#lanes .plot')].map((plot) => plot.view.scale('x').domain())"
    whole = page.run(ranges)
    assert len(whole) == 2 and whole[0] == whole[1] and whole[0][0] == 0
    page.find("[data-zoom='in']").click()
    page.until(f"JSON.stringify((() => {{ {ranges} }})()[1]) !== '{json.dumps(whole[1], separators=(',', ':'))}'")
    closer = page.run(ranges)
    assert closer[0] == closer[1]
    assert closer[0][1] - closer[0][0] == pytest.approx(whole[0][1] / 2)
    page.find("[data-zoom='all']").click()
    page.until(f"(() => {{ {ranges} }})()[1][0] === 0")
    assert page.run(ranges) == whole
    axes = page.find("#lanes .plot svg.marks .background")  # what lies between the axes
    quarter = int(axes.size["width"] / 4)
    drag = ActionChains(page.driver).move_to_element_with_offset(axes, -quarter, 0).click_and_hold()
    drag.move_by_offset(quarter, 0).move_by_offset(quarter, 0).release().perform()
    page.until(f"(() => {{ {ranges} }})()[1][0] > 0")
    dragged = page.run(ranges)
    assert dragged[0] == dragged[1]
    assert dragged[0] == pytest.approx([whole[0][1] / 4, whole[0][1] * 3 / 4], rel=0.02)
    assert page.marks("ring") == len(samples.timeline("ring").spans)
    page.find("[data-zoom='all']").click()
    page.until(f"(() => {{ {ranges} }})()[1][0] === 0")
    assert page.run(ranges) == whole
    page.assert_clean()


def test_paper_is_light_complete_and_without_controls(page: Page, lines: Path) -> None:
    page.open(lines, theme="dark")
    page.look("dark", "print")
    page.until(f"document.querySelector('.plot svg.marks').clientWidth === {PRINTED}")
    page.drawn()
    assert rgb(page.run("return document.querySelector('.plot svg.marks').style.backgroundColor")) == BACKGROUNDS[0]
    assert rgb(page.run("return getComputedStyle(document.body).color")) == "#1C232C"
    assert not any(element.is_displayed() for element in page.all("nav, .controls, .vega-actions"))
    assert "over sequence lengths, 4 ranks" in page.find("#printed").text
    page.look("dark")
    page.until(f"document.querySelector('.plot svg.marks').clientWidth !== {PRINTED}")
    page.drawn()
    pdf = base64.b64decode(page.driver.execute_cdp_cmd("Page.printToPDF", {"printBackground": False})["data"])
    assert pdf.startswith(b"%PDF") and 2 <= len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 8
    page.assert_clean()


def test_what_results_say_is_shown_and_never_run(page: Page, hostile: Path) -> None:
    page.open(hostile)
    assert HOSTILE in page.column("strategy")
    assert HOSTILE in page.column("why not")
    assert page.find("pre.command").text == HOSTILE
    assert page.run("return document.querySelectorAll('img, main script').length") == 0
    assert page.marks("Time of one call") == 2
    page.assert_clean()


def test_a_file_of_refusals_has_a_table_and_no_plots(page: Page, tmp_path: Path) -> None:
    results = samples.write(tmp_path, [record(None, "ulysses", Status.REFUSED, error="8 heads do not divide by 3")])
    page.open(report(tmp_path, results))
    assert page.column("why not") == ["8 heads do not divide by 3"]
    assert page.all("#plots") == [] and page.all("#timelines") == []
    page.assert_clean()


def test_one_rank_and_strategies_that_nobody_knows(page: Page, tmp_path: Path) -> None:
    records = [record([1e-5], name, ranks=1, rounds=1) for name in ("single", "mine", "yours:depth=2", "$x$")]
    page.open(report(tmp_path, samples.write(tmp_path, records)))
    assert page.marks("Time of one call") == 4
    page.assert_clean()


def test_two_hundred_cases(page: Page, tmp_path: Path) -> None:
    records = samples.sweep((1024, 2048, 4096, 8192, 16384, 32768), (2, 3, 4, 6, 7, 8))[:200]
    page.open(report(tmp_path, samples.write(tmp_path, records)), width=375)
    assert len(page.column("strategy")) == 200
    assert page.run("return document.documentElement.scrollWidth") <= 375
    page.assert_clean()
