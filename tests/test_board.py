"""The board in a real browser, and what it answers to whom."""

import threading
import time

import httpx
import pytest
from softprompt.cli import main
from softprompt.live.board import board, serve

from live_kit import made_run

uvicorn = pytest.importorskip("uvicorn", reason='the board needs the extra: pip install "softprompt[board]"')
NAME = "<script>document.title='taken'</script>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("board") / "runs"
    made_run(folder / "first", task=NAME)
    made_run(folder / "$done$ & <b>bold", done=True, step=100, ago=30)
    made_run(folder / "silent", ago=4000, step=70, seeds=1)
    return folder


@pytest.fixture(scope="module")
def address(folder):
    """A running board."""
    server = uvicorn.Server(uvicorn.Config(board(folder), port=0, log_level="error", ws="none"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


def test_the_board_answers_only_who_names_this_machine_and_only_its_own_pages(address):
    assert httpx.get(f"{address}/runs").status_code == 200
    assert httpx.get(f"{address}/runs", headers={"Host": "evil.example"}).status_code == 400
    for path in ("board.html", "..%2fboard.py", "nowhere", "docs", "openapi.json"):
        assert httpx.get(f"{address}/{path}").status_code == 404
    assert "script-src 'self'" in httpx.get(address).headers["Content-Security-Policy"]
    nothing = httpx.get(f"{address}/curves", params={"run": ["../../etc", "nowhere"]})
    assert "Nothing to draw" in nothing.text


def test_a_folder_that_is_none_and_a_port_that_is_taken_are_one_line(tmp_path, capsys, address):
    assert main(["board", str(tmp_path / "nowhere")]) == 2
    assert "is no folder" in capsys.readouterr().err
    assert main(["board", str(tmp_path), "--port", address.rpartition(":")[2]]) == 2
    assert "cannot listen on port" in capsys.readouterr().err


def test_the_board_listens_on_the_loopback_address_alone(folder, monkeypatch):
    told, listening = [], []

    def run(server, sockets):
        listening.extend(sock.getsockname()[0] for sock in sockets)

    monkeypatch.setattr(uvicorn.Server, "run", run)
    serve(folder, 0, told.append)
    assert listening == ["127.0.0.1"]
    assert told[0].startswith("http://127.0.0.1:")


@pytest.fixture
def page(browser, address):
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    faults = []
    page.on("console", lambda message: faults.append(message.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto(address)
    yield page
    page.close()
    assert faults == []


def test_runs_are_listed_filtered_compared_and_followed(page, folder):
    rows = page.locator("#runs tbody tr")
    assert [rows.nth(n).locator(".name").inner_text() for n in range(3)] == ["first", "$done$ & <b>bold", "silent"]
    assert rows.nth(0).locator(".state").inner_text() == "in training"
    assert page.title().startswith("Runs in"), "a task's name is text"
    assert NAME in rows.nth(0).inner_text()
    page.locator("#filter").fill("SILENT")
    assert [rows.nth(n).is_visible() for n in range(3)] == [False, False, True]
    page.locator("#filter").fill("")
    for place in (0, 1):
        rows.nth(place).locator("input").check()
    page.locator("#curves svg").nth(1).wait_for()
    assert "ends at" in (page.locator("#curves .drawing").first.get_attribute("aria-label") or "")
    # It goes on in training: the page sees it, and keeps what was chosen and who has the focus.
    rows.nth(1).locator("input").focus()
    record = folder / "first" / "prompt-tuning-seed0" / "metrics.jsonl"
    before = record.read_bytes()
    record.write_bytes(before + b'{"step": 55, "loss": 0.3, "lr": 0.1}\n')
    page.locator("#runs td[data-name=step]", has_text="55 / 100").wait_for()
    assert [rows.nth(n).locator("input").is_checked() for n in range(3)] == [True, True, False]
    assert page.evaluate("document.activeElement.value") == "$done$ & <b>bold"
    record.write_bytes(before)
    page.locator("#clear").click()
    assert not page.locator("#comparison").is_visible()


def test_nothing_hinders_assistive_tools_and_nothing_is_cut_on_a_phone(page):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    page.locator("#runs input").first.check()
    page.locator("#curves svg").first.wait_for()
    for width, scheme in ((1280, "light"), (390, "dark")):
        page.set_viewport_size({"width": width, "height": 800})
        page.emulate_media(color_scheme=scheme)
        faults = axe.Axe().run(page).response["violations"]
        assert [fault["id"] for fault in faults if fault["impact"] in ("serious", "critical")] == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
