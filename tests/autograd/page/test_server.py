"""The server of a page: what it answers, what it refuses, and how it ends; and its page in use."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from http.client import HTTPConnection
from threading import Semaphore, Thread

import numpy as np
import pytest
from helpers import npgpt, opened, serving, two_layer_classifier

import autograd
from autograd.page import live as live_module
from autograd.page import server as server_module
from autograd.page.live import Live
from autograd.page.server import Server
from autograd.page.why import explain
from autograd.stepper import trace

SCRIPT = """
import autograd

x = autograd.tensor([1.0, 2.0], requires_grad=True)
loss = (x * x).sum()
loss.backward()
"""


def served(loss, port=0):
    """Serve the page of a loss, in a thread."""
    return serving(Server(Live(trace(loss)), port))


@pytest.fixture(scope="module")
def server():
    with served(two_layer_classifier()[0]) as server:
        yield server


def ask(server, method, path, body=None, **headers):
    """Send a request; return its status, its headers and its body."""
    host = f"127.0.0.1:{server.server_port}"
    headers = {"Host": host} | {k.replace("_", "-"): v for k, v in headers.items()}
    connection = HTTPConnection(host, timeout=10)
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    found = response.status, response.headers, response.read()
    connection.close()
    return found


def recompute(server, request, **headers):
    headers = {"Origin": f"http://127.0.0.1:{server.server_port}"} | headers
    body = request if isinstance(request, bytes) else json.dumps(request)
    return ask(server, "POST", f"/{server.token}/recompute", body, **headers)


def test_the_page_and_its_arrays(server):
    status, headers, page = ask(server, "GET", f"/{server.token}/")
    assert status == 200 and page.startswith(b"<!DOCTYPE html>")
    assert "no-store" in headers["Cache-Control"] and "none" in headers["Content-Security-Policy"]
    assert "Python" not in headers["Server"]
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page.decode())[1]
    assert policy.startswith("default-src 'none';") and "connect-src 'self'" in policy
    version = server.live.version
    status, _, body = ask(server, "GET", f"/{server.token}/array/0?version={version}")
    entry = server.live._contents["arrays"][0]
    assert status == 200 and len(body) == int(entry["type"][1]) * np.prod(entry["shape"])
    assert server.server_address[0] == "127.0.0.1"  # and no other interface


@pytest.mark.parametrize(
    "path",
    [
        "/", "/{token}", "/{token}x/", "/x{token}/", "/favicon.ico", "*", "/é/",
        "/{token}/x", "/{token}/../../etc/passwd", "/{token}/..%2f..%2fetc/passwd",
        "/{token}/page.js", "/{token}//etc/passwd", "/{token}/array/9999?version=0",
        "/{token}/array/0", "/{token}/array/-1?version=0", "/{token}/array/0?version=99",
        "/{token}/array/../trace.json?version=0", "/{token}/recompute", "http://x/{token}/",
    ],
)  # fmt: skip
def test_there_is_nothing_else(path, server):
    """No file, no other path, and nothing without the token."""
    path = path.format(token=server.token)
    with socket.create_connection(server.server_address) as connection:
        connection.sendall(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode("latin-1"))
        answer = connection.makefile("rb").read()
    assert answer.split()[1] == b"404" and b"root:" not in answer


@pytest.mark.parametrize("method", ["HEAD", "PUT", "DELETE", "OPTIONS", "TRACE"])
def test_other_methods_are_not_served(method, server):
    assert ask(server, method, f"/{server.token}/")[0] == 501


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"}, {"Host": "evil.example:80"}, {"Host": ""},
        {"Host": "127.0.0.1.evil.example"}, {"Host": "localhost@evil.example"},
        {"Origin": "http://evil.example"}, {"Origin": "null"}, {"Origin": ""},
        {"Origin": "http://127.0.0.1"}, {"Origin": "http://localhost:1"},
    ],
)  # fmt: skip
def test_other_hosts_and_pages_are_refused(headers, server):
    """A page of another site reads and changes nothing, even if its name leads to this computer."""
    version = server.live.version
    assert ask(server, "GET", f"/{server.token}/", **headers)[0] == 403
    assert (
        recompute(server, {"do": "descend", "rate": 1.0, "version": version}, **headers)[0] == 403
    )
    assert server.live.version == version


def test_a_post_without_an_origin_is_refused(server):
    status, *_ = ask(server, "POST", f"/{server.token}/recompute", "{}")
    assert status == 403
    status, *_ = ask(server, "POST", f"/{server.token}/", "{}",
                     Origin=f"http://127.0.0.1:{server.server_port}")  # fmt: skip
    assert status == 404


@pytest.mark.parametrize(
    ("body", "headers", "expected"),
    [
        (b"{", {}, 400), (b"\xff", {}, 400), (b"[" * Live.longest, {}, 400), (b"", {}, 400),
        (b"{}", {"Content_Length": "999999999"}, 413), (b"{}", {"Content_Length": "9" * 99}, 411),
        (b"{}", {"Content_Length": "-1"}, 411), (b"x" * (Live.longest + 1), {}, 413),
    ],
)  # fmt: skip
def test_bodies_that_are_no_requests(body, headers, expected, server):
    """A body that is too long is refused before it is read."""
    assert recompute(server, body, **headers)[0] == expected


def test_a_recomputation(server):
    loss, _ = two_layer_classifier()
    with served(loss) as own:
        number = own.live.session.find("b1")
        request = {"do": "set", "version": 0, "value": number, "flat": 1, "to": 0.5}
        status, _, body = recompute(own, request)
        answer = json.loads(body)
    assert status == 200 and answer["contents"]["version"] == 1
    assert answer["outcome"]["rows"][0][0] == "loss"


def test_closed_connections_are_silent(server, capfd):
    """A tab that is closed while its answer comes prints nothing, and the server goes on."""
    for _ in range(3):
        connection = socket.create_connection(server.server_address)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        connection.sendall(f"GET /{server.token}/ HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
        connection.close()  # at once, with a reset
    assert ask(server, "GET", f"/{server.token}/")[0] == 200
    assert capfd.readouterr() == ("", "")


def test_a_port_in_use(server, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(SCRIPT)
    with pytest.raises(OSError):
        trace(two_layer_classifier()[0]).serve(server.server_port, browser=False)
    port = str(server.server_port)
    assert npgpt("step", "net.py", "--serve", "--port", port) == 2
    assert f"--port {port}: Address already in use; leave out" in capsys.readouterr().err
    for wrong, message in [
        (["--port", "80"], "add --serve"),
        (["--serve", "--port", "0"], "at least 1"),
        (["--serve", "--port", "99999"], "at most"),
        (["--serve", "--html", "x.html"], "leave out --html"),
    ]:
        assert npgpt("step", "net.py", *wrong) == 2
        assert message in capsys.readouterr().err


def test_the_command_ends_with_its_terminal(tmp_path):
    """Ctrl-C ends it, as does the end of the terminal, and nothing listens any more."""
    (tmp_path / "net.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "npgpt", "step", "net.py", "--serve"]
    plain = {k: v for k, v in os.environ.items() if k not in ("BROWSER", "DISPLAY")}
    ends = [signal.SIGINT, signal.SIGHUP]

    def heed() -> None:
        for end in ends:  # nohup, and a shell's &, make a process ignore them
            signal.signal(end, signal.SIG_DFL)

    processes = [
        subprocess.Popen(command, cwd=tmp_path, env=plain, stdout=subprocess.PIPE, text=True,
                         stderr=subprocess.PIPE, start_new_session=True, preexec_fn=heed)
        for _ in ends
    ]  # fmt: skip
    for process, end in zip(processes, ends, strict=True):
        port = int(re.search(r"http://127.0.0.1:(\d+)/", process.stdout.readline())[1])
        assert process.stdout.readline() == "Ctrl-C ends it\n"
        socket.create_connection(("127.0.0.1", port)).close()
        process.send_signal(end)
        out, err = process.communicate(timeout=20)
        assert process.returncode == (0 if end == signal.SIGINT else -end)
        assert out.strip() == "" and err == ""
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))


@pytest.mark.parametrize(
    ("names", "expected"), [(["DISPLAY"], True), (["BROWSER"], True), ([], False)]
)
def test_a_browser_opens_if_there_is_one(names, expected, monkeypatch):
    """Without a display, a browser would run in the terminal, and take it over."""
    for name in ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    for name in names:
        monkeypatch.setenv(name, "x")
    opened_addresses = []
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(server_module.webbrowser, "open", opened_addresses.append)

    def stop(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(Server, "serve_forever", stop)
    trace(two_layer_classifier()[0]).serve()
    trace(two_layer_classifier()[0]).serve(browser=False)
    assert len(opened_addresses) == expected


# ---- in a browser


def look_at(page, name, flat):
    """Open an element of a value by its name."""
    page.evaluate(
        """([name, flat]) => {
          const n = Object.keys(data.values).find((n) => data.values[n].name === name);
          open(value(n), flat);
        }""",
        [name, flat],
    )


def wait_until(page, condition):
    """Wait for a condition; `wait_for_function` would need what the page's policy forbids."""
    for _ in range(400):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(25)
    raise AssertionError(condition)


def wait_for_version(page, version):
    wait_until(page, f"data.version === {version}")


def test_a_weight_is_dragged(browser):
    """While it moves, the loss is shown beside the old one; when let go, everything is new."""
    loss, X = two_layer_classifier()
    with served(loss) as server, opened(browser, server.address) as page:
        session = server.live.session
        look_at(page, "W2", 3)
        before = page.input_value("#drag")
        old = session.value(session.find("W2")).copy()
        assert float(before) == pytest.approx(old.flat[3])
        page.eval_on_selector(
            "#drag",
            "(e) => { e.value = Number(e.value) + 0.5; e.dispatchEvent(new Event('input')); }",
        )
        page.wait_for_selector("#outcome table")
        assert page.evaluate("data.version") == 0  # only tried
        assert page.inner_text("#outcome tr:nth-child(2) th") == "loss"
        page.focus("#drag")
        page.keyboard.press("ArrowRight")  # by the keyboard, which changes it at once
        wait_for_version(page, 1)
        new = session.value(session.find("W2"))
        assert new.flat[3] != old.flat[3] and (np.delete(new, 3) == np.delete(old, 3)).all()
        assert page.evaluate("document.activeElement.id") == "drag"
        texts = page.locator("#outcome tr:nth-child(2) td").all_inner_texts()
        values = [session.level.history[-1][0].recording.values, session.trace.recording.values]
        assert texts == [f"{v[session.trace.start].item():.4g}" for v in values]
        assert "linear forecast" in page.inner_text("#outcome pre")
        assert page.inner_text("h1") == f"loss = {values[1][session.trace.start].item()!r}"
        assert "W2 before" in page.inner_text("#inspector")
        page.click("#undo")
        wait_for_version(page, 2)
        assert "before" not in page.inner_text("#inspector")
        assert page.is_disabled("#undo")


def test_an_input_and_a_target_are_set(browser):
    loss, X = two_layer_classifier()
    with served(loss) as server, opened(browser, server.address) as page:
        session = server.live.session
        look_at(page, "X", 2)
        page.fill("#to", "1.5")
        page.press("#to", "Enter")
        wait_for_version(page, 1)
        assert session.value(session.find("X"))[0, 2] == 1.5
        page.evaluate("open(part(data.calls.length - 1, 'target'), 1)")
        if not page.query_selector("#to"):
            look_at(page, "targets", 1)
        assert page.query_selector("#drag") is None  # a class is a whole number
        page.fill("#to", "99")
        page.press("#to", "Enter")
        wait_until(page, "document.querySelector('#message').textContent")
        assert "the program does not run with that" in page.inner_text("#message")
        assert page.evaluate("data.version") == 1
        page.fill("#to", "3")
        page.press("#to", "Enter")
        wait_for_version(page, 2)
        assert session.value(session.find("targets"))[1] == 3
        look_at(page, "X", 2)
        page.fill("#to", "1e400")
        page.press("#to", "Enter")
        assert "to be a finite number" in page.inner_text("#message")
        assert page.evaluate("data.version") == 2


def test_a_mask_gets_more_rows(browser):
    """The condition is computed again; the arrays after it have another shape."""
    x = autograd.tensor([3.0, -1.0, 2.0], requires_grad=True)
    with autograd.record():
        y = x[x > 0]
        loss = (y * y).sum()
    with served(loss) as server, opened(browser, server.address) as page:
        look_at(page, "y", 1)
        page.evaluate("open(value(numberOf('x')), 1)")
        page.fill("#to", "5")
        page.press("#to", "Enter")
        wait_for_version(page, 1)
        assert page.inner_text("h1") == "loss = 38.0"
        look_at(page, "y", 2)
        assert page.inner_text("#sum").endswith("= 2")
        assert "y before" in page.inner_text("#inspector")
        page.click("#undo")
        wait_for_version(page, 2)
        assert page.inner_text("h1") == "loss = 13.0"


def test_a_cotangent_is_set(browser):
    loss, _ = two_layer_classifier()
    with served(loss) as server, opened(browser, server.address) as page:
        session = server.live.session
        n = session.find("logits")
        page.evaluate(f"open(cotangent({n}), 0)")
        page.fill("#to", "2")
        page.press("#to", "Enter")
        wait_for_version(page, 1)
        h = session.value(session.find("h"))
        g = next(s for s in session.trace.steps if n in session.trace.call(s).results).cotangent
        assert g[0, 0] == 2
        assert "It was replaced" in page.inner_text("#inspector")
        look_at(page, "W2", 0)
        page.click('#inspector button.name:text-is("d(W2)")')
        page.click("#inspector table.numbers button >> nth=0")
        assert float(page.inner_text("#sum").split("= ")[1]) == pytest.approx(
            (h.T @ g)[0, 0], rel=1e-3
        )


def test_why_of_a_block_is_asked_for(browser):
    """Python answers for each element, and its numbers are those of the stepper."""
    from test_browser import block

    found, _ = block()
    with Server(Live(found)) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        with opened(browser, server.address) as page:
            number = found.recording.number("transformer.h.0.mlp.c_fc.weight")
            page.evaluate(f"open(cotangent({number}), 17)")
            page.click("#why summary")
            page.wait_for_selector("#why .path")
            answer = explain(found, number, 17)
            for selector, expected in [
                ("#why .amount", [use["amount"] for use in answer["uses"]]),
                ("#why .use:first-child .terms tr:nth-child(1) .value",
                 [answer["uses"][0]["terms"][0][0]]),
            ]:  # fmt: skip
                shown = page.locator(selector).all_inner_texts()
                assert [float(x) for x in shown] == pytest.approx(expected, rel=1e-3)
            assert page.locator("#why .path li").count() == len(answer["path"])
        server.shutdown()
        thread.join()


def test_two_tabs(browser):
    """The second tab is told that the first has changed the pass, and goes on from there."""
    with served(two_layer_classifier()[0]) as server:
        with opened(browser, server.address) as one, opened(browser, server.address) as two:
            for page in (one, two):
                page.click("#change summary")
            one.click("#change button:text('descend')")
            wait_for_version(one, 1)
            two.fill("#rate", "x")
            two.click("#change button:text('descend')")
            assert "to be a number" in two.inner_text("#message")
            two.fill("#rate", "0.1")
            two.click("#change button:text('descend')")
            wait_for_version(two, 1)
            assert "another page has changed" in two.inner_text("#message")
            two.click("#change button:text('descend')")
            wait_for_version(two, 2)
            assert two.inner_text("#message") == ""
        with opened(browser, server.address) as three:  # the others are closed
            wait_for_version(three, 2)


def test_a_tab_with_old_numbers_shows_the_new_ones_whatever_it_asks(browser, monkeypatch):
    """Also if it asks why, and if it fetches an array."""
    monkeypatch.setattr(live_module, "MOST", 60)
    with served(two_layer_classifier()[0]) as server:
        with opened(browser, server.address) as one, browser.new_context() as context:
            two, three = context.new_page(), context.new_page()  # which log the refused request
            for page in (two, three):
                page.goto(server.address)
            look_at(two, "W2", 3)
            look_at(one, "W2", 3)
            one.fill("#to", "9")
            one.press("#to", "Enter")
            wait_for_version(one, 1)
            two.click("#why summary")
            look_at(three, "X", 23)
            for page in (two, three):
                wait_for_version(page, 1)
                assert page.inner_text("h1") == one.inner_text("h1")
                assert "another page has changed" in page.inner_text("#message")
            one.click("#why summary")
            for page in (one, two):
                page.locator("#why .use").first.wait_for()
            assert one.inner_text("#why") == two.inner_text("#why")
            wait_until(three, "!inspector.textContent.includes('?')")


# ---- if Python needs long


class Slow(Live):
    """Answers a request when the test lets it."""

    def __init__(self, trace):
        super().__init__(trace)
        self.allowed, self.done = Semaphore(0), []

    def answer(self, request):
        self.allowed.acquire()
        self.done.append(request)
        return super().answer(request)


@contextmanager
def slow(browser):
    """Serve a net of two layers, slowly; yield the answers, and the page at a weight."""
    live = Slow(trace(two_layer_classifier()[0]))
    with serving(Server(live, 0)) as server, opened(browser, server.address) as page:
        try:
            look_at(page, "W2", 3)
            yield live, page
        finally:
            live.allowed.release(1000)


def element_shown(page):
    return page.evaluate("element(arrayOf(state.target), state.flat)")


def test_the_page_says_that_python_computes_and_how_much_is_to_do(browser):
    with slow(browser) as (live, page):
        page.click("#change summary")
        for _ in range(3):
            page.click("#change button:text('descend')")
        wait_until(page, "message.textContent === 'Python computes … 2 more to do'")
        live.allowed.release(2)
        wait_until(page, "message.textContent === 'Python computes …'")
        live.allowed.release()
        wait_for_version(page, 3)
        assert page.inner_text("#message") == ""


def test_a_slider_that_keys_move_on_does_not_jump_back(browser):
    """Values that a newer one has overtaken are not computed."""
    with slow(browser) as (live, page):
        page.focus("#drag")
        for _ in range(6):
            page.keyboard.press("ArrowRight")
        last = page.input_value("#drag")
        live.allowed.release(2)  # the first trial, and the first value
        wait_until(page, "data.version > 0 || queue.length < 1")
        assert page.input_value("#drag") == last
        live.allowed.release(1000)
        wait_until(page, "!busy")
        assert element_shown(page) == float(last) == float(page.input_value("#drag"))
        session = live.session
        assert session.value(session.find("W2")).flat[3] == float(last)
        assert [request["do"] for request in live.done] == ["try", "set"]


def test_a_slider_stays_in_the_hand_while_an_answer_comes(browser):
    with slow(browser) as (live, page):

        def move(share):
            box = page.locator("#drag").bounding_box()  # which moves as the outcome appears
            page.mouse.move(box["x"] + share * box["width"], box["y"] + box["height"] / 2)

        move(0.5)
        page.mouse.down()
        move(0.7)
        page.mouse.up()
        wait_until(page, "queue.length === 1")  # the value waits for the trial
        live.allowed.release()
        wait_until(page, "queue.length === 0")
        first = float(page.input_value("#drag"))
        move(0.7)
        page.mouse.down()
        move(0.8)
        live.allowed.release()
        page.wait_for_timeout(200)
        move(0.9)
        last = float(page.input_value("#drag"))
        assert last > first and page.evaluate("data.version") == 0
        page.mouse.up()
        live.allowed.release(1000)
        wait_for_version(page, 2)
        assert element_shown(page) == last
        assert [request["to"] for request in live.done if request["do"] == "set"] == [first, last]


def test_why_waits_for_the_change_before_it(browser):
    """The answer is that about the new pass; questions about what is gone are not asked."""
    with slow(browser) as (live, page):
        for text in ("0.5", "0.25"):
            page.fill("#to", text)
            page.press("#to", "Enter")
        page.click("#why summary")
        live.allowed.release(1000)
        page.locator("#why .use").first.wait_for()
        wait_until(page, "!busy")
        assert element_shown(page) == 0.25
        expected = live.answer(live.done[-1])["why"]["uses"][0]["amount"]
        amount = float(page.inner_text("#why .amount"))
        assert amount == pytest.approx(float(expected), rel=1e-3)
        assert page.inner_text("#message") == ""


def test_a_server_that_was_started_again(browser):
    """It has another address, also at the same port."""
    loss, _ = two_layer_classifier()
    with served(loss) as server:
        port = server.server_port
        page = browser.new_page()
        page.goto(server.address)
    with serving(Server(Live(trace(loss)), port)):
        page.click("#change summary")
        page.click("#change button:text('descend')")
        page.locator("#message:has-text('open the address that it has printed')").wait_for()
    page.close()


def test_large_arrays_are_fetched_when_they_are_looked_at(browser, monkeypatch):
    monkeypatch.setattr(live_module, "MOST", 60)
    loss, X = two_layer_classifier()
    with served(loss) as server, opened(browser, server.address) as page:
        key = page.evaluate("""() => {
          const n = Object.keys(data.values).find((n) => data.values[n].name === "X");
          return data.values[n].array;
        }""")
        assert page.evaluate(f"data.arrays[{key}].kept") != [8, 3]
        look_at(page, "X", 23)
        wait_until(page, f"!data.arrays[{key}].kept")
        assert float(page.inner_text("#sum").split("= ")[1]) == pytest.approx(X[7, 2], rel=1e-3)
        look_at(page, "logits", 31)  # the terms of its sum
        wait_until(page, "!document.querySelector('#inspector').textContent.includes('not in')")
        logits = server.live.session.value(server.live.session.find("logits"))
        total = page.inner_text("#inspector .total").removeprefix("together ")
        assert float(total) == pytest.approx(logits[7, 3], rel=1e-3)


def test_a_server_that_has_ended(browser):
    with served(two_layer_classifier()[0]) as server:
        page = browser.new_page()
        page.goto(server.address)
    page.click("#change summary")
    page.click("#change button:text('descend')")
    wait_until(page, "document.querySelector('#message').textContent")
    assert "does its program still run?" in page.inner_text("#message")
    page.evaluate("open(cotangent(data.start), 0)")
    page.click("#why summary")
    page.wait_for_function("inspector.querySelector('#why').innerText.includes('still run?')")
    page.close()


def test_names_of_markup_stay_names_after_a_change(browser):
    loss, _ = two_layer_classifier()
    found = trace(loss)
    evil = "</script><img src=x onerror=document.title='owned'>"
    for number in list(found.recording.names):
        found.recording.names[number] = f"{evil}{number}"
    with Server(Live(found)) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        with opened(browser, server.address) as page:
            page.click("#change summary")
            page.click("#change button:text('descend')")
            wait_for_version(page, 1)
            assert "</script>" in page.inner_text("#outcome")
            assert page.locator("img").count() == 0 and page.title() != "owned"
        server.shutdown()
        thread.join()


def small_reader():
    """Return two models of bytes that read texts, and the trace of the first on a text."""
    from npgpt import GPT, GPTConfig
    from npgpt.commands.step import insight_of, make_reader, trace_text
    from npgpt.tokenizers import ByteTokenizer

    sizes = dict(vocab_size=256, n_positions=8, n_embd=12, n_layer=1, n_head=3)
    models = [GPT(GPTConfig(**sizes)).eval() for _ in range(2)]
    models[1].transformer.wte.weight.data[...] *= -1
    tokenizer = ByteTokenizer()
    found = trace_text("one", models[0], tokenizer, "the cat")
    found.insight = insight_of((models[0], tokenizer))
    reader = make_reader(
        [(name, m, tokenizer) for name, m in zip(["one", "two"], models, strict=True)]
    )
    return reader, found, models


def test_another_text_and_another_model_stand_beside_the_first(browser):
    reader, found, models = small_reader()
    with Server(Live(found, reader)) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        with opened(browser, server.address) as page:
            page.click("#inside summary")
            page.fill("#text", "the dog")
            page.select_option("#inside select", "1")
            page.click("#inside form button")
            page.locator(".side").nth(1).wait_for()
            titles = page.locator(".side h2").all_inner_texts()
            assert titles == ["one: the·ca", "two: the·do"]
            ids = np.array([[*b"the dog"]])
            _, loss = models[1](ids[:, :-1], targets=ids[:, 1:])
            shown = float(page.inner_text("h1").split("= ")[1])
            assert np.isclose(shown, loss.item(), rtol=1e-6)
            assert page.locator("#tokens button").all_inner_texts() == [*"the·do"]
            page.fill("#text", "x")
            page.click("#inside form button")
            page.locator("#inside [role=status]", has_text="two tokens or more").wait_for()
            page.fill("#text", "two")
            page.uncheck("#inside [type=checkbox]")
            page.click("#inside form button")
            page.locator(".side h2", has_text="two: tw").wait_for()
            assert page.locator(".side").count() == 1
        server.shutdown()
        thread.join()


def test_a_text_is_read_or_refused():
    reader, found, _ = small_reader()
    live = Live(found, reader)
    for request, message in [
        ({"model": 2, "text": "the dog"}, "no such model"),
        ({"model": True, "text": "the dog"}, "no such model"),
        ({"model": 0, "text": ["a"]}, "is to be a text"),
        ({"model": 0, "text": "a long text"}, "the model reads 8"),
    ]:
        answer = live.answer({"do": "read", "version": 0} | request)
        assert message in answer["error"] and "contents" not in answer
    assert live.version == 0 and live.session.trace is found
    refused = Live(found).answer({"do": "read", "version": 0, "model": 0, "text": "the dog"})
    assert "reads no text" in refused["error"]


def test_kernels_run_in_the_threads_of_the_server():
    """A page of a model's loss: what changes is computed by the kernels, in other threads."""
    from npgpt import GPT, GPTConfig

    model = GPT(GPTConfig(vocab_size=20, n_positions=8, n_embd=12, n_layer=1, n_head=3)).eval()
    ids = np.random.default_rng(0).integers(0, 20, (1, 8))
    with autograd.record():
        _, loss = model(ids[:, :-1], targets=ids[:, 1:])
    with served(loss) as server:
        for version in range(3):
            _, _, body = recompute(server, {"do": "descend", "rate": 0.5, "version": version})
            assert json.loads(body)["contents"]["version"] == version + 1
    traces = [each.trace for each in server.live.session.level.history]
    values = [each.recording.values[each.start].item() for each in traces]
    assert values == sorted(values, reverse=True) and len(set(values)) == 3
