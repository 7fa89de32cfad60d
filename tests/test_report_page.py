"""A report in a real browser: what it shows and what its script does, on screen, on paper, and to assistive tools."""

import re

import pytest
import softprompt

from report_kit import made_answers, made_run, renamed_task

NAME = "<script>document.title='taken'</script>"
# A sheet of A4 across, less its margins, in CSS pixels.
PAPER = {"width": 1032, "height": 720}


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    run = made_run(folder / "runs" / "first", task=renamed_task(NAME), difference=(0.2, 0.1, 0.3))
    made_answers(run / "prompt-tuning-seed2")
    made_run(folder / "runs" / "second", model="lab-gpt", seeds=1)
    return softprompt.report(folder / "runs", output=folder / "report.html").as_uri()


@pytest.fixture
def page(browser, address):
    """The report, opened at 1,280 pixels; a message of the console or a request for more fails the test."""
    page = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme="light")
    faults, requests = [], []
    page.on("console", lambda message: faults.append(message.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(address)
    yield page
    page.close()
    assert faults == []
    assert [url for url in requests if not url.startswith("data:")] == [address]


def test_every_figure_is_drawn_and_described(page):
    figures = page.locator("figure .drawing")
    assert figures.count() >= 12
    boxes = page.evaluate("[...document.querySelectorAll('.drawing > svg')].map(e => e.getBoundingClientRect().height)")
    assert len(boxes) == figures.count()
    assert min(boxes) > 100
    assert page.evaluate("[...document.querySelectorAll('.drawing')].every(e => e.ariaLabel.length > 20)")
    assert page.evaluate("[...document.querySelectorAll('.drawing svg')].every(e => e.querySelectorAll('path').length)")


def test_no_id_stands_twice_and_every_link_leads_somewhere(page):
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))
    links = page.evaluate("[...document.querySelectorAll('a[href^=\"#\"]')].map(e => e.hash.slice(1))")
    assert set(links) <= set(ids)


def test_a_click_on_a_column_sorts_by_number_and_a_second_one_turns_it_round(page):
    column = page.locator("#runs-table thead th").all_inner_texts().index("test")
    head = page.locator("#runs-table thead button").nth(column)
    cells = f"#runs-table tbody tr > :nth-child({column + 1})"
    head.click()
    rising = [float(text) for text in page.locator(cells).all_inner_texts()]
    assert rising == sorted(rising)
    assert page.locator("#runs-table th").nth(column).get_attribute("aria-sort") == "ascending"
    # With the keyboard, as with the mouse.
    head.press("Enter")
    assert [float(text) for text in page.locator(cells).all_inner_texts()] == rising[::-1]
    assert page.locator("#runs-table th").nth(column).get_attribute("aria-sort") == "descending"


def test_the_filter_leaves_the_rows_that_have_all_words(page):
    page.get_by_role("searchbox").fill("ept seed0")
    rows = page.locator("#runs-table tbody tr:visible")
    assert rows.count() == 2
    assert all("ept-star-seed0" in text for text in rows.all_inner_texts())
    assert page.locator("#runs-table output").inner_text() == "2 of 8 rows"
    page.get_by_role("searchbox").fill("")
    assert page.locator("#runs-table tbody tr:visible").count() == 8


def test_the_button_changes_the_theme_and_the_ink_of_the_figures(page):
    ink = "getComputedStyle(document.querySelector('.drawing text')).fill"
    ground = "getComputedStyle(document.body).backgroundColor"
    before = page.evaluate(f"[{ink}, {ground}]")
    page.get_by_role("button", name="Dark theme").click()
    after = page.evaluate(f"[{ink}, {ground}]")
    assert before[0] != after[0]
    assert before[1] == "rgb(255, 255, 255)" != after[1]
    page.get_by_role("button", name="Light theme").click()
    assert page.evaluate(f"[{ink}, {ground}]") == before


def test_a_script_in_a_name_stays_text(page):
    assert "taken" not in page.title().replace(NAME, "")
    assert NAME in page.locator("h1").inner_text()


def test_the_first_key_leads_past_the_navigation(page):
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_window(page, width):
    page.set_viewport_size({"width": width, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_command_breaks_before_an_option_on_a_phone(page):
    page.set_viewport_size({"width": 390, "height": 900})
    lines = """[...document.querySelectorAll('pre')].map(pre => {
        const tops = [...pre.querySelectorAll('span')].map(part => {
            const range = document.createRange(); range.selectNodeContents(part);
            return [part.textContent, new Set([...range.getClientRects()].map(box => box.top)).size]; });
        return [pre.textContent, tops]; })"""
    for command, parts in page.evaluate(lines):
        assert command == " ".join(part for part, _ in parts)
        assert [part for part, count in parts if count > 1 and len(part) < 30] == []


def test_answers_with_their_texts_fit_a_phone(page):
    page.set_viewport_size({"width": 390, "height": 900})
    tables = page.evaluate(
        "[...document.querySelectorAll('.texts')].map(t => [t.scrollWidth, t.parentElement.clientWidth])"
    )
    assert len(tables) == 2
    assert all(table <= room for table, room in tables)


def test_no_table_is_cut_on_paper(page):
    page.emulate_media(media="print")
    page.set_viewport_size(PAPER)
    widths = page.evaluate(
        "[...document.querySelectorAll('table')].map(t => [t.scrollWidth, t.parentElement.clientWidth])"
    )
    assert all(table <= room for table, room in widths)
    hidden = page.evaluate("[...document.querySelectorAll('.scroll')].map(e => e.scrollHeight - e.clientHeight)")
    assert max(hidden) <= 1
    assert not page.locator("#theme").is_visible()
    lines = """[...document.querySelectorAll('td.right')].map(cell => {
        const range = document.createRange(); range.selectNodeContents(cell);
        return new Set([...range.getClientRects()].map(box => box.top)).size; })"""
    assert max(page.evaluate(lines)) == 1, "a number is broken over two lines"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_fault(page, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    page.emulate_media(color_scheme=scheme)
    violations = axe.Axe().run(page).response["violations"]
    serious = [fault for fault in violations if fault["impact"] in ("serious", "critical")]
    assert [(fault["id"], re.sub(r"\s+", " ", str(fault["nodes"][0]["target"]))) for fault in serious] == []
