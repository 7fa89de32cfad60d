"""The page of the server in a real browser: two prompts side by side, beside the frozen model."""

import contextlib
from typing import Any

import pytest
from softprompt.backbones import from_model
from softprompt.serving import Engine
from softprompt.serving.http import ServerSettings, Service
from softprompt.serving.http.page import page, policy

from serving_kit import at_an_address, bank_of, some_prompts

KEY = "a-key-for-everybody"


@pytest.fixture(scope="module")
def bank(tiny_gpt):
    backbone = from_model(*tiny_gpt("llama"), name="tiny-llama")
    prompts = some_prompts(backbone, 4)
    return bank_of(backbone, dict(zip(("reviews", "questions", "spelling", "writer"), prompts.values(), strict=True)))


def service_of(bank: Any, **settings: Any) -> Service:
    return Service(bank, Engine(bank.admission.backbone), ServerSettings(model_name="tiny", **settings))


def test_the_page_asks_nothing_of_other_servers():
    assert "http://" not in page()
    assert "https://" not in page()
    assert "default-src 'none'" in policy()


def test_two_prompts_are_compared_by_keyboard_beside_the_frozen_model(bank, browser):
    with at_an_address(service_of(bank)) as (address, _), contextlib.closing(browser.new_page()) as tab:
        faults: list[str] = []
        tab.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
        tab.on("pageerror", lambda error: faults.append(str(error)))
        tab.goto(address)
        tab.get_by_text("4 prompts for tiny").wait_for()
        tab.get_by_label("Second prompt").select_option("spelling")
        tab.get_by_label("Text", exact=True).fill("good <b>movie</b>")
        tab.keyboard.press("Control+Enter")
        tab.locator(".answer dl").nth(3).wait_for()
        assert tab.locator(".answer h2").all_inner_texts() == ["reviews", "spelling"]
        assert tab.locator(".answer .big").nth(0).inner_text() in ("good", "bad")
        assert tab.locator(".frozen h3").all_inner_texts() == ["Without the prompt"] * 2
        shares = [
            float(text.split()[0]) for text in tab.locator(".answer").nth(0).locator("dd.number").all_inner_texts()
        ]
        assert sum(shares[:2]) == pytest.approx(100, abs=0.2)
        # A prompt that reads other columns brings their fields, and what was typed stays.
        tab.get_by_label("First prompt").select_option("questions")
        assert tab.locator("textarea").count() == 3
        tab.get_by_label("First prompt").select_option("writer")
        assert tab.get_by_label("Text", exact=True).input_value() == "good <b>movie</b>"
        tab.get_by_role("button", name="Compare").click()
        tab.locator(".answer .frozen .label").nth(1).wait_for()
        tab.locator("#go:enabled").wait_for()
        assert tab.locator(".answer .big").nth(0).inner_text() not in ("", "…")
        assert faults == []


def test_the_page_is_accessible_in_light_and_in_dark_and_fits_a_telephone(bank, browser):
    from axe_playwright_python.sync_playwright import Axe

    with at_an_address(service_of(bank)) as (address, _):
        for scheme, width in (("light", 1280), ("dark", 390)):
            context = browser.new_context(
                color_scheme=scheme, viewport={"width": width, "height": 900}, bypass_csp=True
            )
            tab = context.new_page()
            tab.goto(address)
            tab.get_by_text("4 prompts for tiny").wait_for()
            tab.get_by_label("Text", exact=True).fill("good movie")
            tab.get_by_role("button", name="Compare").click()
            tab.locator("#go:enabled").wait_for()
            assert tab.evaluate("document.documentElement.scrollWidth") <= width
            assert Axe().run(tab).response["violations"] == []
            context.close()


def test_a_server_with_keys_is_asked_for_one_and_its_errors_are_told(bank, browser):
    with at_an_address(service_of(bank, keys=(KEY,))) as (address, _), contextlib.closing(browser.new_page()) as tab:
        tab.goto(address)
        tab.get_by_text("asks for an API key").wait_for()
        tab.get_by_label("Key of this server").fill(KEY)
        tab.keyboard.press("Tab")
        tab.get_by_text("4 prompts for tiny").wait_for()
        # Blank for Python alone, so that the page sends it.
        tab.get_by_label("Text", exact=True).fill("\x1c")
        tab.keyboard.press("Control+Enter")
        tab.get_by_role("alert").first.wait_for()
        assert "this text is blank" in tab.get_by_role("alert").first.inner_text()
