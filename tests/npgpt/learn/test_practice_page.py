"""Lessons and katas on a page: the terminal's judges and progress, and nobody else's code."""

import json
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from helpers import npgpt, opened, serving, two_layer_classifier

from autograd.page import notebook
from autograd.page.live import Live
from autograd.page.server import Server
from autograd.stepper import trace
from npgpt.errors import UserError
from npgpt.learn import katas
from npgpt.learn import page as page_module
from npgpt.learn.lessons import Lesson, right_answer
from npgpt.learn.page import Tutor
from npgpt.learn.progress import Progress


def post(server, request, path=None, **headers):
    """Send a request to a server; return the status."""
    host = f"127.0.0.1:{server.server_port}"
    connection = HTTPConnection(host, timeout=60)
    headers = {"Host": host, "Origin": f"http://{host}"} | headers
    path = f"/{server.token}/recompute" if path is None else path
    connection.request("POST", path, json.dumps(request), headers)
    response = connection.getresponse()
    status, _ = response.status, response.read()
    connection.close()
    return status


def writes(path):
    """Return a solution that leaves a file behind when it runs."""
    return f"open({str(path)!r}, 'w').close()\nx = lambda g, out: g * (1 - out**2)"


def test_a_kata_is_judged_and_solved_on_the_page(browser, capfd):
    with serving(Server(Tutor("tanh"))) as server, opened(browser, server.address) as page:
        page.fill("#rule-x", "g * (1 + out**2)")
        page.click("#rules button:text-is('check')")
        page.locator(".verdict.wrong").wait_for(timeout=60_000)
        assert "the gradient of x is wrong in 6 of 6 elements" in page.inner_text(".verdict")
        page.click("#rules button:text-is('hint')")
        page.locator("text=The rule of x reads g and out.").wait_for()
        page.fill("#rule-x", "g * (1 - out**2)")
        page.click("#rules button:text-is('check')")
        page.locator(".verdict.right").wait_for(timeout=60_000)
        assert "Right: tanh has all the properties" in page.inner_text(".verdict")
        page.locator("nav button:has-text('✓ tanh')").wait_for()
        page.click("nav button:has-text('relu')")
        page.locator("h2:text-is('relu')").wait_for()
    assert katas.Progress().read() == {"tanh": {"hints": 1, "solved_with": 1}}
    assert "1 - out**2" in katas.Progress().solution("tanh").read_text()
    npgpt("kata")
    assert "✓ tanh  with 1 hint" in capfd.readouterr().out


def test_a_lesson_is_judged_and_goes_on_where_it_was_left(browser):
    lesson = Lesson(1)
    number = next(i for i, q in enumerate(lesson.questions, 1) if q.kind == "value")
    contents = [content for kind, content in lesson.parts if kind == "question"]
    asked = "question", contents[number - 1]
    part = next(i for i, section in enumerate(lesson.sections) if asked in section)
    with serving(Server(Tutor())) as server:
        with opened(browser, server.address) as page:
            page.click("nav button:has-text('1. ')")
            for i in range(part):
                page.locator(f"text=part {i + 1} of").wait_for()
                page.click("button:text-is('next part')")
            field = page.locator(f"input[name='question-{number}']")
            form = page.locator("form.question").filter(has=field)
            for answer, expected in [
                ("?", "? "), ("12345", "Not right."), (right_answer(lesson, number), "Right."),
            ]:  # fmt: skip
                field.fill(answer)
                form.locator("button:text-is('check')").click()
                form.locator(f".verdict:has-text('{expected}')").wait_for()
        assert Progress().read() == {"1": {"part": part}}
        with opened(browser, server.address) as page:
            page.click("nav button:has-text('1. ')")
            page.locator(f"text=part {part + 1} of").wait_for()
            for i in range(part, len(lesson.sections)):
                page.locator(f"text=part {i + 1} of").wait_for()
                page.click("button:text-is('next part'), button:text-is('finish')")
            page.locator("nav button:has-text('✓ 1. ')").wait_for()
    assert Progress().read() == {"1": {"part": 0, "finished": 1}}


def test_the_page_does_not_give_the_answers_away():
    for section in Tutor().answer({"do": "lesson", "lesson": "1"})["lesson"]["sections"]:
        for part in section["parts"]:
            assert not {"answer", "replies", "why"} & set(part)


@pytest.mark.parametrize(
    "request_",
    [
        None, [], "x", 7, {}, {"do": None}, {"do": []}, {"do": "set", "version": 0},
        {"do": "kata"}, {"do": "kata", "op": "../x"}, {"do": "kata", "op": 3}, {"do": "hint"},
        {"do": "check", "op": "no_op", "source": "1"}, {"do": "check", "op": "tanh"},
        {"do": "check", "op": "tanh", "rules": [1]}, {"do": "check", "op": "tanh", "rules": {}},
        {"do": "lesson", "lesson": "99"}, {"do": "lesson", "lesson": 1}, {"do": "lesson"},
        {"do": "part", "lesson": "1", "part": 99}, {"do": "part", "lesson": "1", "part": True},
        {"do": "part", "lesson": "1", "part": -1}, {"do": "reveal", "lesson": "1", "question": 0},
        {"do": "judge", "lesson": "1", "question": 99, "answer": "1"},
        {"do": "judge", "lesson": "1", "question": 1, "answer": None},
    ],
)  # fmt: skip
def test_requests_that_cannot_be_carried_out(request_):
    assert list(Tutor().answer(request_)) == ["error"]
    assert not Progress().read() and not katas.Progress().read()


def test_a_damaged_file_of_progress_is_an_error():
    Progress().home.mkdir(exist_ok=True)
    Progress().file.write_text("{")
    assert "lessons.json" in Tutor().answer({"do": "lesson", "lesson": "1"})["error"]


def test_code_runs_only_for_the_page_of_the_learner(browser, tmp_path):
    """No other page, no request without the token, and no page of a trace can run a solution."""
    mark = tmp_path / "mark"
    request = {"do": "check", "op": "tanh", "source": writes(mark), "version": 0}
    with serving(Server(Tutor())) as server:
        for headers in [
            {"Origin": "http://evil.example"}, {"Origin": "null"}, {"Origin": ""},
            {"Origin": "http://127.0.0.1:1"}, {"Host": "evil.example"},
        ]:  # fmt: skip
            assert post(server, request, **headers) == 403
        for path in ("/recompute", f"/{server.token}x/recompute", "//recompute"):
            assert post(server, request, path) == 404
        assert post(server, {"do": "check", "source": "x" * (1 << 17)}) == 413
        with hostile(server, request) as address:
            page = browser.new_page()
            page.goto(address)
            assert page.evaluate("attack()") == "refused"
            page.close()
    with serving(Server(Live(trace(two_layer_classifier()[0])))) as server:
        assert post(server, request) == 200  # and the answer is an error
        assert list(server.live.answer(request)) == ["error"]
    assert not mark.exists()
    assert Tutor().answer(request)["right"] and mark.exists()  # it would have left a mark


@contextmanager
def hostile(server, request):
    """Serve a page of another origin that knows the token, and sends a request as a form would."""
    address, body = json.dumps(f"{server.address}recompute"), json.dumps(json.dumps(request))
    text = (
        f'<script>const attack = () => fetch({address}, {{method: "POST", mode: "no-cors", '
        f'body: {body}}}).then(() => "answered", () => "refused")</script>'
    )

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *args):
            pass

    with serving(HTTPServer(("127.0.0.1", 0), Handler)) as other:
        yield f"http://127.0.0.1:{other.server_port}/"


def test_a_solution_that_does_not_end_is_ended(monkeypatch):
    monkeypatch.setattr(page_module, "SECONDS", 3)
    answer = Tutor().answer({"do": "check", "op": "tanh", "source": "while True: pass"})
    assert not answer["right"] and "did not end within 3 s" in answer["text"]


def test_a_solution_that_prints_too_much_is_ended(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # as in a notebook
    monkeypatch.setattr(page_module, "MOST", 1000)
    answer = Tutor().answer({"do": "check", "op": "tanh", "source": "while True: print('x')"})
    assert not answer["right"] and "prints too much" in answer["text"]
    assert len(answer["text"]) < 1100 and "\x1b" not in answer["text"]


def test_the_same_in_a_notebook():
    """The messages of a notebook's frame get the answers that a server gives."""
    sent = []

    class Widget:
        def send(self, content, buffers):
            sent.append(content["answer"])

    tutor = Tutor()
    page = tutor.page("frame")
    assert "connect-src" not in page.partition("<title>")[0] and '"channel":"frame"' in page
    for request in ({"do": "hint", "op": "tanh"}, {"do": "array", "key": 0, "version": 0}):
        notebook._reply(tutor, Widget(), {"id": 1, "request": request})
    assert sent[0]["text"] == "The rule of x reads g and out." and "no arrays" in sent[1]["error"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["kata", "no_op", "--serve"], "there is no op 'no_op'"),
        (["lesson", "99", "--serve"], "there is no lesson"),
        (["kata", "--port", "8000"], "add --serve"), (["lesson", "--port", "8000"], "add --serve"),
        (["kata", "tanh", "--hint", "--serve"], "leave out --list, --hint"),
        (["lesson", "1", "--part", "1", "--serve"], "leave out --part"),
    ],
)  # fmt: skip
def test_options_that_contradict(arguments, message, capfd):
    assert npgpt(*arguments) == 2
    assert message in capfd.readouterr().err


def test_a_port_that_is_taken(capfd):
    with Server(Tutor()) as server:
        assert npgpt("kata", "--serve", "--port", server.server_port) == 2
    assert "leave out --port" in capfd.readouterr().err
    with pytest.raises(UserError):
        Tutor("no_op")


@pytest.mark.parametrize("size", [(360, 640), (683, 384), (1024, 768)])
def test_in_low_windows_a_lesson_is_as_high_as_its_text(browser, size):
    """The page scrolls, and not a low part of the page."""
    viewport = dict(zip(("width", "height"), size, strict=True))
    with (
        serving(Server(Tutor("1"))) as server,
        opened(browser, server.address, viewport=viewport) as page,
    ):
        page.locator("text=lesson 1, part 1 of").wait_for()
        high, needed, wide = page.evaluate(
            """() => {
              const [page, lesson] = [document.documentElement, document.querySelector("section")];
              return [lesson.clientHeight, lesson.scrollHeight, page.scrollWidth];
            }"""
        )
        assert wide <= size[0] and (needed <= high + 1 or high > size[1] - 100)
