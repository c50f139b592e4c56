"""The page at /, in a headless Chromium: as somebody would use it, by mouse, by keyboard, on a phone."""
import http.server
import json
import threading

import pytest
from browser import Browser, find_program
from conftest import ROOT, serving

CHOOSE = "document.querySelectorAll('.token')"
CTRL = 2
IDLE = "!document.querySelector('#generate').hidden"


@pytest.fixture(scope="module")
def browser():
    program = find_program()
    if program is None:
        pytest.skip("no Chromium; tools/install-packages clients installs it")
    with Browser(program) as running:
        yield running


@pytest.fixture
def page(browser, server):
    """The page, freshly opened, which knows its model and has made no mistake at the end."""
    browser.resize(1100, 900)
    browser.open(server.url + "/")
    browser.wait("document.querySelector('#facts .name')")
    yield browser
    assert browser.faults() == []


def fill(page, selector, text):
    page.run(f"document.querySelector({json.dumps(selector)}).select()")
    page.type(text)


def text_of(page, selector):
    return page.run(f"document.querySelector({json.dumps(selector)}).textContent")


def generated(page):
    return page.run(f"[...{CHOOSE}].map(token => token.textContent).join('')")


def generate(page, **settings):
    for name, value in settings.items():
        fill(page, "#" + name, str(value))
    page.click("#generate")
    page.wait(f"{IDLE} && {CHOOSE}.length > 0")


def test_the_models_facts_are_shown(page):
    facts = text_of(page, "#facts")
    for part in ("classics", "6.8 M", "parameters", "512", "tokens of context", "4,096"):
        assert part in facts
    assert page.run("document.title").startswith("classics")


def test_text_appears_and_is_the_servers(page, server):
    generate(page, prompt="The captain", max_tokens=40, seed=11, top_k=50)
    body = {"prompt": "The captain", "max_tokens": 40, "seed": 11, "temperature": 0.7,
            "top_p": 0.95, "top_k": 50}
    expected = server.post("/v1/completions", body)["choices"][0]["text"]
    assert generated(page) == expected
    assert text_of(page, "#output") == "The captain" + expected
    status = text_of(page, "#status")
    assert "40 tokens" in status and "a second" in status and "first after" in status


def test_text_appears_while_it_is_written(page):
    fill(page, "#max_tokens", "400")
    page.click("#generate")
    page.wait(f"{CHOOSE}.length > 3")
    assert page.run("!document.querySelector('#cancel').hidden")
    first = page.run(f"{CHOOSE}.length")
    page.wait(f"{CHOOSE}.length > {first}")
    page.wait(IDLE)


def test_stop_stops(page, server):
    fill(page, "#prompt", "It was a bright morning")
    fill(page, "#max_tokens", "480")
    page.click("#generate")
    page.wait(f"{CHOOSE}.length > 3")
    page.click("#cancel")
    page.wait(IDLE)
    n = page.run(f"{CHOOSE}.length")
    assert n < 480 and "stopped" in text_of(page, "#status")
    assert page.run("new Promise(done => setTimeout(() => done("
                    f"{CHOOSE}.length), 300))") == n
    assert page.run("document.querySelector('#fault').hidden")
    generate(page, max_tokens=3)
    assert page.run(f"{CHOOSE}.length") == 3


def test_stop_texts_of_the_settings_are_kept(page, server):
    body = {"prompt": "The captain", "max_tokens": 60, "temperature": 0}
    whole = server.post("/v1/completions", body)["choices"][0]["text"]
    stop = whole[20:23]
    generate(page, prompt="The captain", max_tokens=60, temperature=0,
             stop=f"never\\nto be seen\n{stop}")
    assert generated(page) == whole[:whole.index(stop)]
    assert "came to its end" in text_of(page, "#status")
    assert "never\\nto be seen" in text_of(page, "#curl")


def test_what_the_server_refuses_is_shown(browser, server):
    browser.open(server.url + "/")
    browser.wait("document.querySelector('#facts .name')")
    fill(browser, "#prompt", "word " * 1500)
    browser.click("#generate")
    browser.wait("!document.querySelector('#fault').hidden")
    assert browser.run("document.querySelector('#fault').role") == "alert"
    assert "context" in text_of(browser, "#fault") and "512" in text_of(browser, "#fault")
    browser.wait(IDLE)
    fill(browser, "#prompt", "It was")
    generate(browser, max_tokens=2)
    assert browser.run("document.querySelector('#fault').hidden")


def test_settings_out_of_their_bounds_are_not_sent(page):
    fill(page, "#temperature", "-3")
    page.click("#generate")
    assert page.run("document.querySelector('#temperature').matches(':invalid')")
    assert page.run(f"{IDLE} && {CHOOSE}.length === 0")


def test_a_token_shows_its_alternatives_under_the_mouse(page):
    generate(page, prompt="Elizabeth looked at Mr.", max_tokens=30, seed=2)
    place = page.run(f"(b => [b.x + b.width / 2, b.y + b.height / 2])"
                     f"({CHOOSE}[0].getClientRects()[0])")
    page.move(*place)
    page.wait("!document.querySelector('#card').hidden")
    rows = page.run("[...document.querySelectorAll('#card li')].map(row => row.textContent)")
    assert len(rows) in (5, 6)
    assert any("Darcy" in row and "%" in row for row in rows)
    assert page.run("document.querySelectorAll('#card .chosen').length") == 1
    page.move(5, 5)
    page.wait("document.querySelector('#card').hidden")


def test_improbable_tokens_are_tinted(page):
    generate(page, max_tokens=60, temperature=1.5, seed=4)
    tints = page.run(f"[...{CHOOSE}].map(t => Number(t.style.getPropertyValue('--surprise')))")
    assert all(0 <= tint <= 1 for tint in tints)
    assert min(tints) < 0.2 and max(tints) > 0.5


def test_the_keyboard_is_enough(page):
    page.run("document.querySelector('#prompt').focus()")
    fill(page, "#prompt", "Alice was")
    fill(page, "#max_tokens", "12")
    page.key("Enter", 13, modifiers=CTRL)
    page.wait(f"{IDLE} && {CHOOSE}.length === 12")
    page.run("document.querySelector('#extend').focus()")
    page.key("Tab", 9)
    focused = f"[...{CHOOSE}].indexOf(document.activeElement)"
    assert page.run(focused) == 0
    assert page.run("!document.querySelector('#card').hidden")
    assert page.run("document.activeElement.getAttribute('aria-describedby')") == "card"
    page.key("ArrowRight", 39)
    assert page.run(focused) == 1
    page.key("End", 35)
    assert page.run(focused) == 11
    page.key("Home", 36)
    assert page.run(focused) == 0
    page.key("Escape", 27)
    assert page.run("document.querySelector('#card').hidden")
    fill(page, "#max_tokens", "480")
    page.key("Enter", 13, modifiers=CTRL)
    page.wait(f"{CHOOSE}.length > 2 && document.querySelector('#generate').hidden")
    page.key("Escape", 27)
    page.wait(IDLE)
    assert page.run(f"{CHOOSE}.length") < 480


def test_the_focus_stays_where_the_buttons_are(page):
    focused = "document.activeElement.id"
    page.run("document.querySelector('#generate').focus()")
    fill(page, "#max_tokens", "480")
    page.run("document.querySelector('#generate').focus()")
    page.key("Enter", 13, "\r")
    page.wait(f"{CHOOSE}.length > 2")
    assert page.run(focused) == "cancel"
    page.key("Enter", 13, "\r")
    page.wait(IDLE)
    assert page.run(focused) == "generate"
    fill(page, "#max_tokens", "3")
    page.run("document.querySelector('#extend').focus()")
    page.key("Enter", 13, "\r")
    page.wait(f"{IDLE} && {CHOOSE}.length === 3")
    assert page.run(focused) == "generate"
    page.run("document.querySelector('#prompt').focus()")
    page.key("Enter", 13, modifiers=CTRL)
    page.wait(f"{IDLE} && {CHOOSE}.length === 3")
    assert page.run(focused) == "prompt"


def test_tokens_tell_what_they_are_without_being_seen(page):
    generate(page, prompt="Elizabeth looked at Mr.", max_tokens=5, seed=2)
    assert page.run(f"[...{CHOOSE}].every(t => t.getAttribute('role') === 'listitem' && "
                    "t.parentElement.getAttribute('role') === 'list')")
    labels = page.run(f"[...{CHOOSE}].map(token => token.getAttribute('aria-label'))")
    texts = page.run(f"[...{CHOOSE}].map(token => token.textContent)")
    for label, text in zip(labels, texts):
        name, part = label.rsplit(", ", 1)
        assert name == text.replace(" ", "·").replace("\n", "↵") and part.endswith(" %")


def test_a_text_can_be_gone_on_with(page):
    generate(page, prompt="Peter", max_tokens=5, seed=1)
    first = "Peter" + generated(page)
    page.click("#extend")
    page.wait(f"{IDLE} && document.querySelector('#given').textContent !== 'Peter'")
    assert text_of(page, "#given") == first


def test_every_field_has_a_label(page):
    assert page.run("[...document.querySelectorAll('input, textarea')]"
                    ".filter(field => field.labels.length !== 1).length") == 0


def test_a_phone_shows_all_of_it(page, server):
    page.resize(360, 740, 1, phone=True)
    page.open(server.url + "/")
    page.wait("document.querySelector('#facts .name')")
    assert page.run("!document.querySelector('.settings').open")
    page.click("#generate")
    page.wait(f"{IDLE} && {CHOOSE}.length > 0")
    assert page.run("document.documentElement.scrollWidth <= innerWidth")
    page.run(f"{CHOOSE}[5].focus()")
    card = page.run("(b => [b.left, b.right])(document.querySelector('#card')"
                    ".getBoundingClientRect())")
    assert 0 <= card[0] and card[1] <= 360


def test_a_key_is_asked_for(browser):
    with serving("--api-key", "open sesame") as server:
        browser.open(server.url + "/")
        browser.wait("!document.querySelector('#access').hidden")
        assert text_of(browser, "#fault") != ""
        browser.type("guess")
        browser.key("Enter", 13, text="\r")
        browser.wait("!document.querySelector('#fault').hidden")
        fill(browser, "#key", "open sesame")
        browser.key("Enter", 13, text="\r")
        browser.wait("document.querySelector('#facts .name')")
        assert browser.run("document.querySelector('#access').hidden && "
                           "document.querySelector('#fault').hidden")
        generate(browser, max_tokens=4)
        assert "Authorization" in text_of(browser, "#curl")
        assert "sesame" not in text_of(browser, "#curl")


# ---- A server that is not ours, to see what the page makes of strange answers ----

HOSTILE = "<img src=x onerror='window.hacked=1'><script>window.hacked=1</script>"


class StrangeServer(http.server.BaseHTTPRequestHandler):
    """Knows no facts, and streams what a model should not get away with."""

    chunks = []

    def log_message(self, *_):
        pass

    def answer(self, kind, body):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        if self.path == "/":
            page = ROOT / "src" / "serve" / "page.html"
            self.answer("text/html; charset=utf-8", page.read_bytes())
        elif self.path == "/v1/models":
            self.answer("application/json", json.dumps({"data": [{"id": HOSTILE}]}).encode())
        else:
            self.send_error(404)

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.answer("text/event-stream", "".join(
            f"data: {chunk if isinstance(chunk, str) else json.dumps(chunk)}\r\n\r\n"
            for chunk in self.chunks).encode())


@pytest.fixture
def strange(browser):
    """Opens the page of a server that streams the given chunks, and generates."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), StrangeServer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()

        def play(*chunks):
            StrangeServer.chunks = chunks
            browser.open(f"http://127.0.0.1:{server.server_port}/")
            browser.wait("document.querySelector('#facts .name')")
            browser.click("#generate")
            browser.wait(f"{IDLE} && document.querySelector('#status').textContent.length > 2")
            return browser
        yield play
        server.shutdown()


def chunk(text, tokens=None, offsets=None, finish=None):
    logprobs = tokens and {"tokens": tokens, "token_logprobs": [-1.0] * len(tokens),
                           "top_logprobs": [{HOSTILE: -0.5, "b": -2.0}] * len(tokens),
                           "text_offset": offsets}
    return {"choices": [{"index": 0, "text": text, "logprobs": logprobs,
                         "finish_reason": finish}]}


def test_text_is_never_markup(strange):
    page = strange(chunk(HOSTILE, [HOSTILE], [0]), chunk("", finish="stop"), "[DONE]")
    assert generated(page) == HOSTILE
    page.run(f"{CHOOSE}[0].focus()")
    assert HOSTILE.replace(" ", "·") in text_of(page, "#card")
    assert HOSTILE in text_of(page, "#facts")
    assert page.run("document.querySelectorAll('img').length === 0 && !window.hacked")


def test_a_server_without_log_probabilities_still_shows_text(strange):
    page = strange(chunk("one "), chunk("two"), "[DONE]")
    assert text_of(page, "#output").endswith("one two")
    assert page.run("document.querySelector('#fault').hidden")


def test_a_character_of_several_tokens_stays_whole(strange):
    page = strange(chunk("a", ["a"], [0]), chunk("", ["bytes:\\xe2\\x98"], [1]),
                   chunk("\u2603", ["bytes:\\x83"], [1]), chunk("\U0001f600b", ["x"], [2]),
                   chunk("", finish="stop"), "[DONE]")
    assert page.run(f"[...{CHOOSE}].map(t => t.textContent)") == \
        ["a", "", "\u2603", "\U0001f600b"]


def test_text_held_back_for_a_stop_lands_in_its_tokens(strange):
    page = strange(chunk("", ["ab"], [0]), chunk("", ["cd"], [2]), chunk("abcdef", ["ef"], [4]),
                   chunk("", finish="stop"), "[DONE]")
    assert page.run(f"[...{CHOOSE}].map(t => t.textContent)") == ["ab", "cd", "ef"]


def test_a_stream_that_breaks_off_is_said_to(strange):
    page = strange(chunk("half of", ["half of"], [0]))
    assert "ended before the text did" in text_of(page, "#fault")
    assert generated(page) == "half of"


def test_a_fault_within_a_stream_is_shown(strange):
    page = strange(chunk("half", ["half"], [0]), {"error": {"message": "the device failed"}})
    assert text_of(page, "#fault") == "the device failed"
