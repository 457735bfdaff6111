"""The report in a real browser (headless Chromium, driven by selenium): it renders, filters, obeys keys and stays shut.

Needs Debian's packages `chromium` and `chromium-driver`; nothing is downloaded here.
"""

import json
import shutil
from itertools import pairwise

import pytest
from report_run import GAINED, ITEMS, LOST, OURS, make_run
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

from benchmarks.report import report

pytestmark = pytest.mark.engine

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1280,900",
    "--force-prefers-reduced-motion",
)
HOSTILE = [
    "<img src=x onerror=\"window.hacked='img'\"><caption>1</caption>",
    "</script><script>window.hacked='script'</script><!--",
    "before \u202eafter\u2066 \x1b]0;title\x07\x1b[31mred <svg onload=\"window.hacked='svg'\">",
    '<b>bold</b> & <a href="javascript:window.hacked=\'link\'">click</a> <iframe src="https://example.com"></iframe>',
]


def hostile(row):
    index = int(row["item_id"][-5:])
    if index >= len(HOSTILE):
        return row
    text = HOSTILE[index]
    return row | {"response": text, "answer": text, "question": text, "reference": text, "rule": text, "subset": text}


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A report's file, in a folder with a space in its name."""
    folder = make_run(tmp_path_factory.mktemp("a run") / "digits-s0", rows=hostile)
    path = folder.parent / "the report.html"
    path.write_text(report([folder]).html, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.fail("these tests need a browser: apt-get install chromium chromium-driver")
    options = Options()
    options.binary_location = program
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(driver))
    yield browser
    browser.quit()


@pytest.fixture
def shown(chromium, page):
    """The page, freshly loaded."""
    chromium.get(page.as_uri())
    yield chromium
    errors = [entry["message"] for entry in chromium.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
    assert errors == []


def text(browser, identifier):
    return browser.find_element(By.ID, identifier).text


def choose(browser, identifier, value):
    Select(browser.find_element(By.ID, identifier)).select_by_value(value)


def press(browser, *keys):
    for key in keys:
        browser.switch_to.active_element.send_keys(key)


def items(browser):
    return browser.execute_script("return document.querySelectorAll('#items [role=option]').length")


def count_of(flip):
    return {"all": ITEMS, "gain": GAINED, "loss": LOST, "differ": GAINED + LOST}[flip]


def test_everything_is_drawn_and_nothing_is_fetched(chromium, page):
    chromium.get_log("performance")
    chromium.get(page.as_uri())
    assert chromium.find_element(By.TAG_NAME, "h1").text == "digits-s0"
    for drawing in chromium.find_elements(By.CSS_SELECTOR, "figure svg"):
        size = drawing.rect
        assert drawing.get_attribute("aria-label")
        assert size["height"] > 50 or not drawing.is_displayed()
    requests = [json.loads(entry["message"])["message"] for entry in chromium.get_log("performance")]
    fetched = [r["params"]["request"]["url"] for r in requests if r["method"] == "Network.requestWillBeSent"]
    assert {url for url in fetched if not url.startswith("data:")} == {page.as_uri()}
    assert chromium.get_log("browser") == []


def test_the_policy_keeps_the_page_from_the_network(chromium, page):
    chromium.get(page.as_uri())
    told = chromium.execute_async_script(
        "const done = arguments[0]; fetch('https://example.com/').then(() => done('sent'), (e) => done(String(e)));"
    )
    assert "sent" not in told
    blocked = [entry["message"] for entry in chromium.get_log("browser")]
    assert any("Content Security Policy" in message for message in blocked)


@pytest.mark.parametrize("flip", ["all", "gain", "loss", "differ"])
def test_flips_are_counted_right(shown, flip):
    choose(shown, "f-flip", flip)
    assert items(shown) == count_of(flip)
    assert text(shown, "count").startswith(f"{count_of(flip)} of {ITEMS} items")


def test_filters_by_verdict_and_words(shown):
    choose(shown, "f-verdict", "wrong")
    assert items(shown) == ITEMS - sum(OURS)
    choose(shown, "f-verdict", "all")
    shown.find_element(By.ID, "f-text").send_keys("prism_digits-00007")
    shown.execute_async_script("setTimeout(arguments[0], 400)")
    assert items(shown) == 1
    shown.find_element(By.ID, "clear").click()
    assert items(shown) == ITEMS


def test_an_empty_choice_says_so(shown):
    shown.find_element(By.ID, "f-text").send_keys("no such words anywhere")
    shown.execute_async_script("setTimeout(arguments[0], 400)")
    assert "No item passes" in text(shown, "items")
    assert not shown.find_element(By.ID, "item").is_displayed()


def test_keys_move_filter_swap_and_find(shown):
    press(shown, "j", "j")
    assert text(shown, "where") == f"3 of {ITEMS}"
    press(shown, "k")
    assert text(shown, "where") == f"2 of {ITEMS}"
    press(shown, "2")
    assert items(shown) == GAINED
    press(shown, "s")
    assert items(shown) == LOST
    assert "prism/rlvr" in text(shown, "side-first")
    press(shown, "1", "/")
    assert shown.switch_to.active_element.get_attribute("id") == "f-text"
    press(shown, "j", Keys.ESCAPE)
    assert shown.switch_to.active_element.get_attribute("id") == "items"
    assert shown.find_element(By.ID, "f-text").get_attribute("value") == "j"


def test_the_list_obeys_arrows_and_tells_which_item_is_chosen(shown):
    listing = shown.find_element(By.ID, "items")
    listing.send_keys(Keys.ARROW_DOWN, Keys.END)
    assert text(shown, "where") == f"{ITEMS} of {ITEMS}"
    chosen = shown.find_element(By.ID, listing.get_attribute("aria-activedescendant"))
    assert chosen.get_attribute("aria-selected") == "true"
    listing.send_keys(Keys.HOME)
    assert text(shown, "where") == f"1 of {ITEMS}"


def test_keys_can_be_switched_off(shown):
    shown.execute_script("document.getElementById('keys').open = true")
    shown.find_element(By.ID, "keys-on").click()
    press(shown, "j")
    assert text(shown, "where") == f"1 of {ITEMS}"


def test_both_responses_and_the_image_are_shown(shown):
    choose(shown, "f-flip", "gain")
    assert "baseline/rlvr" in text(shown, "side-first")
    assert "✗ wrong" in text(shown, "side-first")
    assert "✓ right" in text(shown, "side-second")
    shown.execute_async_script("document.querySelector('#pictures img').decode().then(arguments[0])")
    image = shown.find_element(By.CSS_SELECTOR, "#pictures img")
    assert int(image.get_property("naturalWidth")) == 96
    assert image.get_attribute("alt")


def test_another_model_is_put_on_the_right(shown):
    shown.find_element(By.XPATH, "//table[@id='all-models']//button[contains(., 'shared/sft')]").click()
    assert "shared/sft" in text(shown, "side-second")


@pytest.mark.parametrize("index", range(len(HOSTILE)))
def test_a_hostile_response_stays_text(shown, index):
    shown.find_element(By.ID, "f-text").send_keys(f"prism_digits-{index:05d}")
    shown.execute_async_script("setTimeout(arguments[0], 400)")
    inside = "#item :is(b, a, iframe, script, svg), #pictures img[onerror], .side img"
    assert shown.find_elements(By.CSS_SELECTOR, inside) == []
    assert shown.execute_script("return window.hacked") is None
    written = shown.find_element(By.CSS_SELECTOR, "#side-second pre").get_property("textContent")
    assert written.startswith(HOSTILE[index][:6])
    assert all(c == "\n" or c.isprintable() for c in written)
    if "\u202e" in HOSTILE[index]:
        assert "\\u202eafter\\u2066 \\x1b]0;title\\x07\\x1b[31mred <svg" in written


def test_the_theme_follows_the_system_until_told_otherwise(chromium, page):
    ground = "return getComputedStyle(document.body).backgroundColor"
    ink = "return getComputedStyle(document.querySelector('figure svg text')).fill"
    dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    chromium.get(page.as_uri())
    light_ground, light_ink = chromium.execute_script(ground), chromium.execute_script(ink)
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
    dark_ground, dark_ink = chromium.execute_script(ground), chromium.execute_script(ink)
    assert dark_ground != light_ground
    assert dark_ink != light_ink
    button = chromium.find_element(By.ID, "theme")
    button.click()
    assert button.text == "Theme: light"
    assert chromium.execute_script(ground) == light_ground
    button.click()
    assert button.text == "Theme: dark"
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert chromium.execute_script(ground) == dark_ground
    button.click()
    assert chromium.execute_script(ground) == light_ground


def test_a_narrow_screen_needs_no_sideways_scrolling(chromium, page):
    small = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", small)
    try:
        chromium.get(page.as_uri())
        assert chromium.execute_script("return document.documentElement.scrollWidth") <= 390
    finally:
        chromium.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_print_is_light_opens_folds_and_leaves_controls_out(shown):
    folds = "return [...document.querySelectorAll('details:not(#keys)')].map((fold) => fold.open)"
    shown.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert set(shown.execute_script(folds)) == {True}
    shown.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert not shown.find_element(By.ID, "filters").is_displayed()
    assert shown.find_element(By.ID, "side-first").is_displayed()
    shown.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    shown.execute_script("dispatchEvent(new Event('afterprint'))")
    assert set(shown.execute_script(folds)) == {False}


def test_the_page_can_be_read_without_seeing_it(shown):
    count = "return [...document.querySelectorAll(arguments[0])].filter((e) => !({})).length"
    unlabelled = count.format("e.closest('label') || e.getAttribute('aria-label') || e.textContent.trim()")
    assert shown.execute_script(unlabelled, "input, select, button, [role=region], [role=listbox]") == 0
    assert shown.execute_script(count.format("e.caption"), "table") == 0
    assert shown.execute_script(count.format("e.scope"), "th") == 0
    assert shown.execute_script(count.format("e.alt"), "img") == 0
    levels = shown.execute_script("return [...document.querySelectorAll('h1, h2, h3, h4')].map((h) => +h.tagName[1])")
    assert levels.count(1) == 1
    assert all(later - earlier <= 1 for earlier, later in pairwise(levels))
    assert shown.execute_script("return document.documentElement.lang") == "en"
