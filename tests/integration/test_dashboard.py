"""The dashboard as a person uses it: a headless Chromium drives it against real servers with the echo engine.

Screenshots are kept in the folder that BERT_SERVING_ARTIFACTS names, otherwise among pytest's temporary ones. Without a
Chromium and its driver all of this is skipped; Debian's packages are chromium and chromium-driver.
"""
from __future__ import annotations

import http.server
import json
import os
import shutil
import signal
import socketserver
import threading
import urllib.request
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from .conftest import eventually

FOLDER = Path(__file__).parents[2] / "plugin/dashboard"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")

pytestmark = [
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="the dashboard is NOT tested: there is no Chromium with its "
                       "driver on this machine (Debian: apt-get install chromium chromium-driver)"),
    pytest.mark.timeout(120),  # a browser starts slowly on a busy machine
]

FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage",
         "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars")
VIEWS = ("live", "try", "map", "config")
DESKTOP, PHONE = (1440, 1150), (360, 740)


# ---- a browser, a place to load the page from, somebody who uses the server ------------------------------------------

class Page:
    """The dashboard in a browser."""

    def __init__(self, driver, artefacts):
        self.driver, self.artefacts = driver, artefacts

    def open(self, address):
        self.driver.get(address)
        self.errors()  # those of the page before

    def run(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def find(self, name):
        return self.driver.find_element("id", name)

    def text(self, name):
        return self.run("return document.getElementById(arguments[0]).innerText", name)

    def count(self, selector):
        return self.run("return document.querySelectorAll(arguments[0]).length", selector)

    def tile(self, name):
        return self.run("return document.querySelector(`#tile-${arguments[0]} .tile-value`).textContent", name)

    def shown(self, name):
        return self.find(name).is_displayed()

    def view(self, name):
        self.find(f"tab-{name}").click()
        assert self.shown(f"view-{name}")

    def type(self, name, text):
        field = self.find(name)
        field.clear()
        field.send_keys(text)

    def paste(self, name, text):
        """As a paste does: at once, and the page hears of it."""
        self.run("const field = document.getElementById(arguments[0]); field.value = arguments[1];"
                 "field.dispatchEvent(new Event('input'))", name, text)

    def until(self, condition, what, seconds=30):
        assert eventually(condition, seconds), f"{what}; pulse: {self.text('pulse')}; alarm: {self.text('alarm')}"

    def live(self):
        self.until(lambda: self.text("pulse") == "Live", "it shows no live server")

    def hurry(self):
        """Look ten times a second, so that nothing short is missed."""
        self.run("window.hurry = setInterval(() => document.getElementById('alarm-now').click(), 100)")

    def size(self, width, height, scale=1):
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
            "width": width, "height": height, "deviceScaleFactor": scale, "mobile": width < 600})

    def prefer(self, scheme):
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {
            "features": [{"name": "prefers-color-scheme", "value": scheme}]})

    def screenshot(self, name):
        path = self.artefacts / f"{name}.png"
        assert self.driver.save_screenshot(str(path))
        assert path.stat().st_size > 5000

    def errors(self):
        """What the browser's console has had since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser")
                if entry["level"] in ("SEVERE", "WARNING")]


@pytest.fixture(scope="module")
def artefacts(tmp_path_factory):
    named = os.environ.get("BERT_SERVING_ARTIFACTS")
    folder = Path(named) if named else tmp_path_factory.mktemp("screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    webdriver = pytest.importorskip("selenium.webdriver", reason="the dashboard is NOT tested: there is no selenium")
    from selenium.webdriver.chrome.service import Service
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def page(driver, artefacts, serve, site):
    """A page in a window of a desk, light, and whose console stays empty; it is left before any server ends."""
    page = Page(driver, artefacts)
    page.size(*DESKTOP)
    page.prefer("light")
    yield page
    errors = page.errors()
    driver.get("about:blank")
    assert errors == []


class Files(http.server.SimpleHTTPRequestHandler):
    """The folder of the page, as any web server would serve it."""

    def log_message(self, *_):
        pass


class Faulty(Files):
    """A proxy that knows one status, refuses every text with "bad" in it, and answers the others with small vectors."""

    status = {}
    refusals = 0

    def answer(self, code, body):
        data = json.dumps(body).encode()
        self.send_response(code)
        for header in (("Content-Type", "application/json"), ("Content-Length", str(len(data)))):
            self.send_header(*header)
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        if self.path == "/status/server":
            self.answer(200, self.status)
        else:
            super().do_GET()

    def do_POST(self):
        texts = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["texts"]
        if self.path != "/encode":
            self.answer(404, {"description": "no such path", "status": 404})
        elif any("bad" in text for text in texts):
            self.answer(400, {"description": "a text is bad", "status": 400})
        else:
            self.answer(200, {"result": [[len(text), ord(text[0]), index] for index, text in enumerate(texts)]})


@pytest.fixture
def site():
    """Start web servers with the page's folder; gives addresses."""
    running = []

    def start(handler=Files):
        server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), partial(handler, directory=str(FOLDER)))
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        running.append((server, thread))
        return f"http://127.0.0.1:{server.server_address[1]}/"

    yield start
    for server, thread in running:
        server.shutdown()
        thread.join()
        server.server_close()


def proxy(server):
    return f"http://127.0.0.1:{server.http_port}"


@pytest.fixture
def watch(page, site):
    """Open the page for a server, and wait until it shows it."""
    def open_it(server):
        page.open(f"{site()}?server={proxy(server)}")
        page.live()
        return page
    return open_it


@pytest.fixture
def load(serve):
    """Keep servers busy until the end of the test, when they still stand."""
    stop, threads = threading.Event(), []

    def work(server):
        with server.client() as client:
            while not stop.wait(0.02):
                client.encode([f"sentence {number}" for number in range(8)])

    def start(server, clients=2):
        threads.extend(threading.Thread(target=work, args=(server,)) for _ in range(clients))
        for thread in threads[-clients:]:
            thread.start()

    yield start
    stop.set()
    for thread in threads:
        thread.join()


# ---- live ------------------------------------------------------------------------------------------------------------

def test_values_change_under_load(watch, load, serve_echo):
    server = serve_echo("-http_port", "0", "-num_worker", "2")
    page = watch(server)
    page.until(lambda: page.tile("throughput") == "0", "a server without work has a throughput")
    assert (page.tile("workers"), page.tile("queue")) == ("2 of 2", "0")
    assert "no requests in this time" in page.text("charts")
    page.hurry()
    load(server)
    page.until(lambda: page.tile("throughput") not in ("0", "–"), "the throughput stays as it was")
    page.until(lambda: page.tile("latency").endswith(" ms"), "there is no latency")
    page.until(lambda: page.tile("fill").endswith(" %"), "there is no batch fill")
    assert int(page.tile("clients")) >= 2
    seen = set()
    page.until(lambda: seen.add(page.tile("throughput")) or len(seen) >= 3, "the throughput does not change")
    page.until(lambda: page.count("#charts path.line") >= 8, "lines are missing")
    page.screenshot("live")


def test_charts_tell_their_values_to_the_pointer_and_to_the_keyboard(watch, load, serve_echo):
    server = serve_echo("-http_port", "0")
    page = watch(server)
    page.hurry()
    load(server, clients=1)
    page.until(lambda: page.run("return App.history.points.length") >= 4, "there are no points")
    chart = page.driver.find_element("css selector", "#charts svg.chart")
    assert "Throughput: sentences encoded" in chart.get_attribute("aria-label")
    page.run("arguments[0].focus()", chart)
    chart.send_keys("\ue012\ue012")  # left, left
    times = page.run("return [...document.querySelectorAll('.chart-when')].map(when => when.textContent)")
    assert len(times) == 6 and len(set(times)) == 1 and times[0].count(":") == 2, "not all charts show one moment"
    chart.send_keys("\ue00c")  # escape
    assert page.run("return document.querySelector('.chart-when').textContent") == ""


def test_a_killed_worker_is_seen_to_go_and_to_return(watch, serve_echo):
    server = serve_echo("-http_port", "0", "-num_worker", "2")
    page = watch(server)
    page.hurry()
    page.run("""
        window.seen = [];
        new MutationObserver(() => seen.push(document.getElementById("workers").innerText))
            .observe(document.getElementById("workers"), {childList: true});
    """)
    os.kill(server.workers()[0], signal.SIGKILL)
    page.until(lambda: page.tile("workers") == "1 of 2", "no worker is missing")
    page.screenshot("worker-lost")
    page.until(lambda: page.tile("workers") == "2 of 2", "the worker does not return")
    assert any("lost" in text or "starting" in text for text in page.run("return window.seen"))
    assert "1 restart" in page.text("tile-workers")
    page.run("clearInterval(window.hurry)")


def test_a_server_that_is_gone_is_missed_and_found_again(page, site, load, serve_echo):
    server = serve_echo("-http_port", "0")
    page.open(f"{site()}?server={proxy(server)}")
    page.live()
    page.until(lambda: page.run("return App.history.points.length") >= 2, "there are no points")
    ports = ["-port", str(server.port), "-port_out", str(server.port_out), "-http_port", str(server.http_port)]
    assert server.stop() == 0
    page.until(lambda: page.text("pulse") == "Gone", "the page does not see that the server is gone")
    assert page.text("alarm-what") == "The server does not answer any more"
    assert "Last seen at" in page.text("alarm-why")
    page.until(lambda: "Trying again in" in page.text("alarm-next"), "it does not say when it tries again")
    page.screenshot("gone")
    page.prefer("dark")
    page.screenshot("gone-dark")
    server = serve_echo(*ports)
    page.live()
    assert not page.shown("alarm")
    page.until(lambda: page.count(".outage") and page.count(".restart"), "the charts do not show what happened")
    load(server)
    page.until(lambda: page.tile("throughput") not in ("0", "–"), "the new server's work is not seen")
    page.screenshot("back")
    # The browser writes a line for each refused connection; nothing else may be there.
    assert all("ERR_CONNECTION_REFUSED" in error for error in page.errors())


def test_another_service_is_told_from_a_server(page, site):
    page.open(site())  # the page's own address, where only files are
    page.until(lambda: page.shown("alarm"), "nothing is said")
    assert page.text("alarm-what") == "This is not the address of a server"
    assert all("404" in error for error in page.errors())


def test_a_key_is_asked_for_kept_and_sent_to_no_other_server(page, site, serve_echo, echo_server):
    key = "a-key-that-was-typed"
    server = serve_echo("-http_port", "0", environ={"BERT_SERVING_API_KEY": key})
    page.open(f"{site()}?server={proxy(server)}")
    page.until(lambda: page.text("pulse") == "Locked", "nothing is said of a key")
    assert page.text("alarm-what") == "This server wants a key: type it beside its address"
    page.until(lambda: page.run("return document.activeElement.id") == "key", "the key's field is not ready to type")
    page.screenshot("locked")
    page.type("key", "a-wrong-key-was-typed\n")
    page.until(lambda: "does not know this key" in page.text("alarm-what"), "a wrong key is not told")
    page.type("key", key + "\n")
    page.live()
    page.view("try")
    page.find("compare").click()
    page.until(lambda: page.shown("try-result") and page.count("#tokens-0 li") > 3, "the key does not go along")
    page.view("live")
    page.driver.refresh()
    page.live()  # until the tab is closed
    assert key not in page.driver.current_url
    # Refusals are lines in the browser's console; nothing else may be there.
    assert all("401" in error for error in page.errors())
    page.type("endpoint", f"127.0.0.1:{echo_server.http_port}\n")
    page.live()
    assert not page.shown("key") and page.run("return Api.key(arguments[0])", proxy(echo_server)) == ""
    page.run("sessionStorage.clear()")


def test_an_address_is_typed(page, site, echo_server):
    page.open(site())
    page.type("endpoint", f"127.0.0.1:{echo_server.http_port}\n")
    page.live()
    assert f"server=http%3A%2F%2F127.0.0.1%3A{echo_server.http_port}" in page.driver.current_url
    assert not page.shown("key")
    page.type("endpoint", "ftp://example.com\n")
    assert "begins with http" in page.run("return document.getElementById('endpoint').validationMessage")
    assert page.text("pulse") == "Live"
    page.errors()


# ---- where it is loaded from -----------------------------------------------------------------------------------------

def test_it_opens_as_a_file(page, echo_server):
    page.open(f"{(FOLDER / 'index.html').as_uri()}?server={proxy(echo_server)}")
    page.live()
    assert page.text("model").startswith("echo")


def test_the_proxy_serves_it(page, echo_server):
    address = proxy(echo_server)
    page.open(address + "/")
    page.live()
    assert page.find("endpoint").get_attribute("value") == address
    assert page.driver.current_url == address + "/#live"


# ---- try it ----------------------------------------------------------------------------------------------------------

def test_two_sentences_are_compared(watch, echo_server):
    page = watch(echo_server)
    page.view("try")
    page.type("text-0", "good day")
    page.type("text-1", "good day")
    page.find("compare").click()
    page.until(lambda: page.shown("try-result"), "there is no result")
    assert page.text("similarity") == "1.000"
    page.until(lambda: page.text("tokens-0") != "", "nothing is said of tokens")
    page.type("text-1", "something else")
    page.find("compare").click()
    page.until(lambda: page.count("#compared tr") == 2, "there is no second result")
    page.until(lambda: "another request" in page.text("timings"), "there are no timings")
    assert page.run("return [...document.querySelectorAll('#tokens-0 li')].map(token => token.textContent)")
    page.find("examples").find_elements("tag name", "button")[0].click()
    page.until(lambda: page.count("#compared tr") == 3, "the example does nothing")
    page.screenshot("try")


def test_a_text_is_never_markup(watch, echo_server):
    page = watch(echo_server)
    evil = "<img src=x onerror=window.harmed=1><b>bold</b>"
    page.view("try")
    page.type("text-0", evil)
    page.find("compare").click()
    page.until(lambda: evil in page.text("compared"), "the text is not shown as it is")
    page.view("map")
    page.paste("map-text", f"{evil}\t{evil}\nx\ty\nx\tz")
    page.find("map-start").click()
    page.until(lambda: "3 of 3 lines" in page.text("map-note"), "the lines are not encoded")
    assert evil in page.text("map-legend")
    assert not page.run("return window.harmed") and page.count("main img, td b b, li > b > b") == 0


def test_an_empty_sentence_is_asked_for(watch, echo_server):
    page = watch(echo_server)
    page.view("try")
    page.type("text-1", "  ")
    page.find("compare").click()
    assert page.text("try-note") == "Sentence B is empty: type something."
    assert not page.shown("try-result")


# ---- the map ---------------------------------------------------------------------------------------------------------

def test_hundreds_of_lines_are_mapped(watch, echo_server):
    page = watch(echo_server)
    page.view("map")
    lines = [f"{'odd' if number % 2 else 'even'}\tline number {number} {'x' * (number % 17)}" for number in range(300)]
    page.paste("map-text", "\n".join(lines) + "\n\n")
    assert page.text("map-count") == "300 lines"
    page.find("map-start").click()
    page.until(lambda: "300 of 300 lines encoded" in page.text("map-note"), "it does not end")
    assert page.text("map-legend").split() == ["even", "odd"]
    assert "of the variance" in page.text("map-axes")

    canvas = page.find("map")
    page.run("arguments[0].focus()", canvas)
    canvas.send_keys("\ue014")  # right: the point in the middle
    first = page.text("map-tip")
    assert "line number" in first
    canvas.send_keys("\ue014\ue014")
    assert page.text("map-tip") != first
    canvas.send_keys("\n")
    assert page.count("#map-neighbours li") == 5
    page.type("map-find", "number 12")
    assert page.text("map-found") == "11 found"
    for name in ("map-in", "map-in", "map-out", "map-fit"):
        page.find(name).click()
    page.screenshot("map")


def test_a_point_is_hovered_and_clicked(watch, echo_server):
    from selenium.webdriver import ActionChains
    page = watch(echo_server)
    page.view("map")
    page.find("map-sample").click()
    page.find("map-start").click()
    page.until(lambda: "96 of 96 lines encoded" in page.text("map-note"), "it does not end")
    assert page.text("map-legend").split() == "weather cooking football computers money travel health music".split()
    x, y, text = page.run("""
        const map = document.getElementById("map"), box = map.getBoundingClientRect();
        const tip = document.getElementById("map-tip");
        for (let x = 2; x < box.width; x += 4) {
            map.dispatchEvent(new PointerEvent("pointermove",
                {clientX: box.left + x, clientY: box.top + box.height / 2}));
            if (!tip.hidden) return [x - box.width / 2, 0, tip.innerText];
        }
        return [0, 0, "no point"];
    """)
    canvas = page.find("map")
    ActionChains(page.driver).move_to_element_with_offset(canvas, int(x), int(y)).perform()
    assert page.text("map-tip") == text
    ActionChains(page.driver).click().perform()
    page.until(lambda: page.shown("map-near"), "a click shows no neighbours")
    assert page.text("map-chosen") in text


def test_a_run_is_cancelled(watch, serve_echo):
    page = watch(serve_echo("-http_port", "0"))
    page.view("map")
    page.paste("map-text", "\n".join(f"line {number}" for number in range(5100)))
    assert page.text("map-count") == "5,000 lines; 100 more are left out"
    page.find("map-start").click()
    page.find("map-cancel").click()
    page.until(lambda: "stopped" in page.text("map-note"), "it does not stop")
    assert page.shown("map-start") and not page.shown("map-cancel")


def test_a_batch_that_fails_is_told_and_tried_again(page, site, echo_server):
    with urllib.request.urlopen(f"{proxy(echo_server)}/status/server", timeout=20) as response:
        handler = type("Handler", (Faulty,), {"status": json.load(response)})
    page.open(site(handler))
    page.live()
    page.view("map")
    page.paste("map-text", "\n".join(f"text {number}" if number != 70 else "bad text" for number in range(150)))
    page.find("map-start").click()
    page.until(lambda: "86 of 150 lines encoded" in page.text("map-note"), "the good batches are not encoded")
    assert page.text("map-problems") == "Lines 65 to 128: a text is bad."
    page.run("arguments[0].scrollIntoView()", page.find("map-again"))
    page.find("map-again").click()
    page.until(lambda: "0 of 64 lines encoded" in page.text("map-note"), "the failed batch is not tried again")
    assert all("400" in error for error in page.errors())


# ---- configuration ---------------------------------------------------------------------------------------------------

def test_the_configuration_is_shown_and_searched(watch, echo_server):
    page = watch(echo_server)
    page.view("config")
    assert str(echo_server.port_out) in page.text("config") and "REDUCE_MEAN" in page.text("config")
    page.screenshot("config")
    page.type("config-filter", "port_out")
    assert page.text("config").split() == ["Network", "port_out", str(echo_server.port_out)]
    page.type("config-filter", "no such option")
    assert page.text("config") == "" and page.shown("config-none")


# ---- phones, dark rooms ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("view", VIEWS)
def test_a_phone_needs_no_sideways_scrolling(watch, echo_server, view):
    page = watch(echo_server)
    page.size(*PHONE, scale=2)
    page.view(view)
    if view == "try":
        page.find("compare").click()
        page.until(lambda: page.shown("try-result"), "there is no result")
    assert page.run("return document.documentElement.scrollWidth") <= PHONE[0]
    inside = page.run("""
        return [...document.querySelectorAll("main button, main input, main textarea, main .card, header button")]
            .filter(element => element.offsetParent && element.getBoundingClientRect().right > innerWidth + 1 &&
                    !element.closest(".tabs"))
            .map(element => element.outerHTML.slice(0, 80));
    """)
    assert inside == []
    page.screenshot(f"phone-{view}")


def test_dark_follows_the_system_until_the_button_says_otherwise(watch, echo_server):
    page = watch(echo_server)
    ground = "return getComputedStyle(document.body).backgroundColor"
    light = page.run(ground)
    page.prefer("dark")
    dark = page.run(ground)
    assert dark != light
    page.screenshot("live-dark")
    page.find("theme").click()
    assert page.run(ground) == light
    page.driver.refresh()
    assert page.run(ground) == light, "the choice is forgotten"
    page.find("theme").click()
    assert page.run(ground) == dark
    page.run("localStorage.clear()")


def test_tabs_are_changed_by_arrow_keys(watch, echo_server):
    page = watch(echo_server)
    tab = page.find("tab-live")
    tab.click()
    tab.send_keys("\ue014")  # right
    assert page.shown("view-try") and page.run("return document.activeElement.id") == "tab-try"
    page.find("tab-try").send_keys("\ue012")  # left
    assert page.shown("view-live")


# ---- the functions behind it, in the browser that runs them ----------------------------------------------------------

@pytest.fixture(scope="module")
def script(driver):
    """Run a function's body in a page that watches nothing."""
    def run(body, *arguments):
        if not driver.current_url.startswith("file:"):
            driver.get(f"{(FOLDER / 'index.html').as_uri()}?server=http://127.0.0.1:9")
        return driver.execute_script(body, *arguments)
    return run


@pytest.mark.parametrize("counts, part, expected", [
    ([0, 0, 0], 0.5, None), ([10, 0, 0], 0.5, 5), ([0, 10, 0], 0.5, 15), ([5, 5, 0], 0.5, 10), ([5, 5, 0], 0.95, 19),
    ([0, 0, 3], 0.5, 20), ([9, 0, 1], 0.99, 20), ([0, 4, 0], 1, 20),
])
def test_quantile_of_a_histogram(script, counts, part, expected):
    assert script("return Measure.quantile([10, 20], ...arguments)", counts, part) == expected


READING = """
    const reading = (at, more) => ({at, started: "a", requests: 0, sentences: 0, clients: 1, queue: null, tokens: 0,
        batchSize: 10, workers: [{jobs: 0, sentences: 0}], latency: null, ...more});
"""


def test_rates_are_between_two_readings(script):
    point = script(READING + """
        return Measure.between(reading(1000), reading(3000, {requests: 4, sentences: 20, tokens: 100,
            workers: [{jobs: 5, sentences: 18}]}))""")
    assert (point["requests"], point["arrived"], point["encoded"], point["tokens"]) == (2, 10, 9, 50)
    assert point["workers"] == [9] and point["fill"] == pytest.approx(0.36)


@pytest.mark.parametrize("before, now", [
    ("null", "reading(1000, {sentences: 5})"),
    ("reading(1000, {sentences: 5})", "reading(3000, {started: 'b', sentences: 9})"),
    ("reading(1000, {sentences: 5})", "reading(1000, {sentences: 9})"),
], ids=["first", "restarted", "no time between"])
def test_no_rate_is_made_up(script, before, now):
    point = script(READING + f"return Measure.between({before}, {now})")
    assert {point[key] for key in ("requests", "arrived", "encoded", "p50", "fill")} == {None}


def test_the_history_is_bounded_and_knows_outages(script):
    length, first, outages = script("""
        const history = new Measure.History();
        for (let at = 0; at < 2000; at++) at === 1990 ? history.gone(at) : history.add({at});
        return [history.points.length, history.points[0].at, history.outages];
    """)
    assert (length, first) == (720, 1279)
    assert outages == [{"from": 1989, "to": 1991}]


def test_lines_have_gaps_where_nothing_is_known(script):
    found = script("""
        const history = new Measure.History();
        [1, 2, null, 3].forEach((value, at) => history.add({at, value}));
        history.gone(4);
        history.add({at: 5, value: 4});
        history.add({at: 99, value: 5});
        return Charts.pieces(history.points, "value", 50).map(piece => piece.map(point => point.value));
    """)
    assert found == [[1, 2], [3], [4], [5]]


@pytest.mark.parametrize("failures, hidden, ms", [
    (0, False, 2000), (0, True, 15_000), (1, False, 1000), (2, False, 2000), (5, False, 10_000), (99, False, 10_000),
    (99, True, 15_000)])
def test_pause_between_looks(script, failures, hidden, ms):
    assert script("return Poll.pause(...arguments)", failures, hidden) == ms


@pytest.mark.parametrize("typed, address", [
    ("localhost:8125", "http://localhost:8125"), (" https://host/bert/ ", "https://host/bert"),
    ("http://host:1/?x#y", "http://host:1"), ("ftp://host", None), ("file:///etc", None), ("http://", None),
    ("", None)])
def test_addresses(script, typed, address):
    assert script("try { return Api.endpoint(arguments[0]) } catch { return null }", typed) == address


def test_lines_are_parsed(script):
    parsed = script("return Lines.parse(arguments[0])", "a\tone\r\n\n two \n\tthree\nb\t\nc\tx\ty")
    assert [(line["label"], line["text"], line["number"]) for line in parsed["lines"]] == [
        ("a", "one", 1), ("", "two", 3), ("", "three", 4), ("c", "x\ty", 6)]
    assert script("return Lines.parse('x\\n'.repeat(5001)).dropped") == 1


def test_many_labels_share_a_last_group(script):
    names, group = script("""
        const lines = "aaaabbbccdefghijk".split("").map(label => ({label}));
        const names = Lines.groups(lines);
        return [names, Lines.groupOf({label: "k"}, names)];
    """)
    assert names == ["a", "b", "c", "d", "e", "f", "g", None] and group == 7


@pytest.mark.parametrize("rows, columns", [(40, 5), (200, 60), (3, 10)])
def test_principal_components_are_numpys(script, rows, columns):
    random = np.random.default_rng(rows)
    matrix = random.normal(size=(rows, columns)) * np.geomspace(3, 0.2, columns) + random.normal(size=columns)
    places, shares = script("""
        const projection = new Pca.Projection();
        for (let at = 0; at < arguments[0].length; at += 16) {
            projection.add(arguments[0].slice(at, at + 16));
            projection.improve(5);
        }
        while (!projection.improve(50));
        return [[...projection.coordinates()], projection.explained()];
    """, matrix.tolist())
    left, values, _ = np.linalg.svd(matrix - matrix.mean(axis=0), full_matrices=False)
    expected = left[:, :2] * values[:2]
    found = np.array(places).reshape(-1, 2)
    signs = np.sign((found * expected).sum(axis=0))
    np.testing.assert_allclose(found * signs, expected, atol=0.02 * values[0] / np.sqrt(rows))
    np.testing.assert_allclose(shares, (values ** 2 / (values ** 2).sum())[:2], atol=1e-3)


@pytest.mark.parametrize("rows", [[], [[1, 2, 3]], [[1, 2, 3]] * 4, [[0, 0], [1, 1], [2, 2]]],
                         ids=["none", "one", "equal", "on a line"])
def test_what_has_no_plane_is_drawn_all_the_same(script, rows):
    places, shares = script("""
        const projection = new Pca.Projection();
        projection.add(arguments[0]);
        while (!projection.improve(50));
        return [[...projection.coordinates()], projection.explained()];
    """, rows)
    assert len(places) == 2 * len(rows) and np.isfinite(places + shares).all()
    assert np.allclose(places[1::2], 0, atol=1e-6)


def test_nearest(script):
    found = script("return Pca.nearest([[1, 0], [0, 1], [2, 0.1], [0, 0], [-1, 0]], 0, 2)")
    assert [neighbour["index"] for neighbour in found] == [2, 1]


@pytest.mark.parametrize("expression, text", [
    ("short(null)", "–"), ("short(0)", "0"), ("short(0.4213)", "0.42"), ("short(7.26)", "7.3"),
    ("short(1234)", "1,234"), ("short(12400)", "12.4k"), ("short(3100000)", "3.1M"), ("percent(0.093)", "9.3 %"),
    ("percent(1)", "100 %"),
    ("milliseconds(0.42)", "0.42 ms"), ("milliseconds(128.4)", "128 ms"), ("milliseconds(1384)", "1.4 s"),
    ("duration(59.6)", "1 min 0 s"), ("duration(18725)", "5 h 12 min"), ("duration(273600)", "3 d 4 h"),
])
def test_numbers_as_people_read_them(script, expression, text):
    assert script(f"return Format.{expression}") == text


@pytest.mark.parametrize("most, ticks", [
    (1, [0, 0.25, 0.5, 0.75, 1]), (7, [0, 2, 4, 6, 8]), (948, [0, 250, 500, 750, 1000])])
def test_ticks_are_round(script, most, ticks):
    assert script("return Charts.ticks(arguments[0])", most) == ticks
