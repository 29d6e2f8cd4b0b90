"""The report in a browser: tables, figures, samples, keyboard, phone, accessibility, and texts that attack."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.cli import main
from tests.report.hostile import ATTACK, poison

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright (pip install vtpbench[dev])")
axe = pytest.importorskip("axe_playwright_python.base", reason="needs axe-playwright-python")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync")  # fmt: skip
Opener = Callable[..., Any]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as api:
        found = api.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        yield found
        found.close()


@pytest.fixture(scope="module")
def files(stored: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A report and a comparison."""
    folder = tmp_path_factory.mktemp("pages")
    found = {name: folder / f"{name}.html" for name in ("report", "compare")}
    where = f"paths.results={stored}"
    assert main(["report", where, f"to={found['report']}"]) == 0
    sample = next(stored.glob("runs/*/glyph_walk/none/*/attention-*")).read_text().split('"')[3]
    assert main(["report", "compare", sample, where, "benchmark=glyph_walk", f"to={found['compare']}"]) == 0
    return found


@pytest.fixture
def opened(browser: Any) -> Iterator[Opener]:
    """Opens a file; fails afterwards where it complained or asked for anything but itself."""
    contexts, wrong = [], list[str]()

    def open_file(file: Path, width: int = 1200, height: int = 900, **options: Any) -> Any:
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        context.set_default_timeout(10_000)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: wrong.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda r: r.url.startswith(("file:", "data:", "blob:")) or wrong.append(r.url))
        page.goto(file.as_uri())
        return page

    yield open_file
    for context in contexts:
        context.close()
    assert not wrong


def column(board: Any, number: int) -> list[str]:
    found: list[str] = board.locator(f"tbody tr > :nth-child({number})").all_inner_texts()
    return found


def test_the_leaderboard_sorts_and_filters(files: dict[str, Path], opened: Opener) -> None:
    page = opened(files["report"])
    board = page.locator(".board").nth(1)
    head = board.get_by_role("columnheader", name="accuracy")
    before = column(board, 4)
    assert len(before) == 6 and head.get_attribute("aria-sort") is None
    head.get_by_role("button").click()
    down = [float(text.split()[0]) for text in column(board, 4)]
    assert head.get_attribute("aria-sort") == "descending" and down == sorted(down, reverse=True)
    head.get_by_role("button").press("Enter")
    up = [float(text.split()[0]) for text in column(board, 4)]
    assert head.get_attribute("aria-sort") == "ascending" and up == sorted(up) != down
    page.get_by_label("Search").fill("fastv walk")
    assert page.locator("#found").inner_text() == "2 rows" and column(board, 1) == ["fastv", "fastv+dstp"]
    assert page.locator(".board").nth(0).is_hidden()
    page.get_by_label("Search").fill("")
    page.locator("#filter [name=method]").select_option("oracle")
    assert page.locator("#found").inner_text() == "2 rows" and column(board, 1) == ["oracle †"]
    page.locator("#filter [name=benchmark]").select_option("glyph_lookup")
    assert page.locator("#found").inner_text() == "1 row" and board.is_hidden()


def test_ten_thousand_rows_sort_in_a_fifth_of_a_second(files: dict[str, Path], opened: Opener) -> None:
    taken = opened(files["report"]).evaluate(
        """() => {
        const columns = data.board[0].columns;
        const value = (i) => `${((i * 7919) % 10007) / 100} [1, 2]`;
        const texts = (i) => columns.map((column) => column.left ? `method ${i % 97}` : value(i));
        const rows = Array.from({length: 10000}, (_, i) => ({method: "fastv", texts: texts(i)}));
        const made = board({title: "many", model: "m", benchmark: "b", columns, rows});
        document.getElementById("filter").after(made.element);
        const times = [3, 0, 3].map((column) => {
            const start = performance.now();
            made.sort(column);
            made.element.getBoundingClientRect();
            return performance.now() - start;
        });
        const drawn = [...made.element.querySelectorAll("tbody tr")];
        const first = drawn.map((row) => parseFloat(row.children[3].textContent));
        return {times, rows: first.length, sorted: first.every((value, i) => !i || value <= first[i - 1])};
        }"""
    )
    print(taken["times"])
    assert max(taken["times"]) < 200 and taken["rows"] == 100 and taken["sorted"]


def test_the_slider_shows_what_is_visible_and_written(files: dict[str, Path], opened: Opener) -> None:
    page = opened(files["report"])
    page.locator(".verdicts").get_by_role("button", name="visionpulse_10").click()
    slider, clear = page.get_by_label("Decoding step"), page.locator("rect.veil.clear")
    assert clear.count() == 64 and page.locator(".player output").inner_text() == "prefill"
    seen, written = set(), []
    for _ in range(4):
        slider.press("ArrowRight")
        seen.add(str(clear.evaluate_all("all => all.map((one) => [one.getAttribute('x'), one.getAttribute('y')])")))
        written.append(page.locator(".reply mark").inner_text())
        assert 0 < clear.count() < 64 and slider.get_attribute("aria-valuetext").startswith("step ")
    assert len(seen) > 1 and len(set(written)) > 1
    came, gone = page.locator("rect.came").count(), page.locator("rect.gone").count()
    assert f"{came} in, {gone} out" in page.locator(".state").inner_text() or not came + gone
    page.get_by_role("button", name="Previous step").click()
    assert slider.input_value() == "3" and page.locator(".reply mark").inner_text() == written[2]


def test_samples_that_are_wrong_only_under_pruning(files: dict[str, Path], opened: Opener) -> None:
    page = opened(files["report"])
    page.locator("#choose [name=which]").select_option("lost")
    sample = page.locator("#choose [name=sample]")
    assert sample.locator("option").count() > 0
    verdicts = dict(zip(page.locator(".verdicts th button").all_inner_texts(), column(page.locator(".verdicts"), 2),
                        strict=True))  # fmt: skip
    assert "right" in verdicts["none"] and any("wrong" in text for text in verdicts.values())
    first = page.locator("#viewer h3").inner_text()
    page.get_by_role("button", name="Next sample").click()
    assert page.locator("#viewer h3").inner_text() != first


def test_methods_side_by_side_move_together(files: dict[str, Path], opened: Opener) -> None:
    page = opened(files["compare"])
    states = page.locator(".panel .state")
    assert page.locator(".panel h2").count() == states.count() == 6
    before = states.all_inner_texts()
    page.get_by_label("Decoding step").fill("5")
    assert states.all_inner_texts() != before and page.locator(".panel mark").all_inner_texts().count("") < 6


@pytest.mark.parametrize("name", ["report", "compare"])
def test_a_phone_scrolls_in_one_direction(name: str, files: dict[str, Path], opened: Opener) -> None:
    page = opened(files[name], 390, 844)
    assert page.evaluate("document.documentElement.scrollWidth") == 390


@pytest.mark.parametrize("name", ["report", "compare"])
def test_axe_finds_no_fault(name: str, files: dict[str, Path], opened: Opener) -> None:
    page = opened(files[name], reduced_motion="reduce")  # no colours half-way between two
    page.get_by_label("Decoding step").fill("5")
    page.evaluate(axe.AXE_SCRIPT)
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        found = page.evaluate("axe.run()")["violations"]
        assert [(fault["id"], [node["html"][:200] for node in fault["nodes"][:3]]) for fault in found] == []


def test_the_theme_can_be_switched(files: dict[str, Path], opened: Opener) -> None:
    page = opened(files["report"], color_scheme="light")
    colours = "[getComputedStyle(document.body).backgroundColor, document.querySelector('#costs text').style.fill]"
    light = page.evaluate(colours)
    page.get_by_role("button", name="Switch between light and dark").click()
    assert all(a != b for a, b in zip(light, page.evaluate(colours), strict=True))


def test_texts_that_attack_are_shown_and_nothing_runs(copied: Callable[[], Path], opened: Opener) -> None:
    results = copied()
    where = [f"paths.results={results}", "benchmark=glyph_walk"]
    poison(results)
    assert main(["report", *where]) == 0 and main(["report", "compare", ATTACK, *where]) == 0
    for name in ("report", "compare"):
        page = opened(results / f"{name}.html")
        if name == "report":
            page.locator("#choose [name=sample]").select_option(label=f"{ATTACK} · {ATTACK}")
            page.locator(".verdicts button").first.click()
        shown = page.locator("main").inner_text()
        assert shown.count(ATTACK) >= 3 and page.locator("main img").count() == 0
        assert page.evaluate("typeof window.hacked") == "undefined"
