"""A run on a page: its curve, its updates by clicks and keys, and the sentences behind a weight."""

import json
import re
import time

import numpy as np
import pytest
from helpers import SIZES, Quiet, assert_fits, npgpt, opened, serving, train_config

from autograd.page import make_page_of_steps
from autograd.page.live import Live
from autograd.page.server import Server
from autograd.stepper.stops import CommandError
from npgpt.diagnostics.course import Course
from npgpt.training.curve import read_losses
from npgpt.training.follow import Shares, follow, read_sequences
from npgpt.training.replay import Replay
from npgpt.training.run import resume, start, train

HOSTILE = "<img src=x onerror=alert(1)></script>'\"&\u202e \x1b[31m\n"
TEXT = "".join(f"line {i}: {HOSTILE}" for i in range(60))
NAME, PLACE = "transformer.h.0.mlp.c_fc.weight", (3, 17)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    home = tmp_path_factory.mktemp("course")
    (home / "hostile <b>.txt").write_text(TEXT)
    config = train_config(
        str(home / "hostile <b>.txt"), home / "run", n_layer=1, checkpoint_interval=5,
        log_interval=1, gradient_accumulation_steps=1,
    )  # fmt: skip
    run = start(config)
    train(run, Quiet(run))
    return run.folder


def at(folder, step):
    replay = Replay(folder, step, step)
    replay.seek(step)
    return replay.run


def served(folder, step=0):
    course = Course(str(folder))
    return serving(Server(Live(course.go(step), course=course)))


def wait_until(page, expression):
    """Wait until an expression is true; by its policy, the page itself evaluates none."""
    for _ in range(600):
        if page.evaluate(expression):
            return
        time.sleep(0.05)
    raise AssertionError(expression)


def wait_for_update(page, step):
    page.locator(f"#run summary:has-text('update {step} of 12')").wait_for()


def open_weight(page):
    """Open an element of the gradient of a weight, and why it is what it is."""
    flat = np.ravel_multi_index(PLACE, (16, 64))
    page.evaluate(f"state.why.add('why'); open(cotangent(numberOf({NAME!r})), {flat})")
    page.locator("#moved").wait_for()


def test_clicks_and_keys_replay_updates(folder, browser):
    with served(folder) as server, opened(browser, server.address) as page:
        wait_for_update(page, 0)
        losses = dict(read_losses(folder)["train"])  # by the step after the update
        page.focus("#update")
        for step in (1, 2):
            page.keyboard.press("ArrowRight")
            wait_for_update(page, step)
            assert page.evaluate("document.activeElement.id") == "update"
        page.fill("#update-number", "11")
        page.press("#update-number", "Enter")
        wait_for_update(page, 11)
        box = page.locator("#run svg.plot").bounding_box()
        page.mouse.click(box["x"] + 76 + (box["width"] - 88) * 7 / 11, box["y"] + 30)
        wait_for_update(page, 7)
        run = at(folder, 7)
        assert (
            page.evaluate("data.run.loss") == run.backward() == pytest.approx(losses[8], rel=1e-6)
        )
        key = f"data.values[numberOf({NAME!r})]"
        for kind, x in (("array", run.model), ("cotangent", None)):
            parameter = run.optimizer.parameters[NAME]
            expected = parameter.numpy() if x else parameter.grad.numpy()
            found = page.evaluate(f"[...numbersOf({key}.{kind})]")
            np.testing.assert_array_equal(np.reshape(found, expected.shape), expected)
        ids = run.task.batches(7)[0].inputs
        tokens = page.locator("#tokens p").first.locator("button").all_inner_texts()
        assert len(tokens) == ids.shape[1]
        page.fill("#update-number", "12")
        page.press("#update-number", "Enter")
        assert page.evaluate("data.run.step") == 7  # the field takes no such number
        assert "5" in page.locator(".saved title").nth(1).text_content()


def test_a_run_whose_server_has_ended(folder, browser):
    """The slider goes back to the update that is shown."""
    with served(folder) as server:
        page = browser.new_page()
        page.goto(server.address)
        wait_for_update(page, 0)
    page.focus("#update")
    page.keyboard.press("ArrowRight")
    page.locator("#run [role=status]:has-text('does its program still run?')").wait_for()
    assert page.input_value("#update") == "0"
    page.close()


def test_the_sentences_of_a_batch(folder, browser):
    """The greatest loss first; hostile text is text."""
    with served(folder, 6) as server, opened(browser, server.address) as page:
        page.click("#batch summary")
        shown = [float(x) for x in page.locator("#batch b.loss").all_inner_texts()]
        losses = sorted((each.loss for each in read_sequences(at(folder, 6))), reverse=True)
        np.testing.assert_allclose(shown, losses, rtol=1e-3)
        text = page.inner_text("#batch")
        assert re.search(r"hostile <b>\.txt, lines? \d+", text)
        assert page.locator("img, b img").count() == 0
        assert "\x1b" not in text and "\u202e" not in text


def test_why_goes_on_to_the_sentence_and_over_the_run(folder, browser):
    with served(folder, 6) as server, opened(browser, server.address) as page:
        open_weight(page)
        run = at(folder, 6)
        shares = Shares(run, [NAME]).of(NAME, PLACE)[0].sum(axis=1)
        shown = [float(x) for x in page.locator("#moved b.adds").all_inner_texts()]
        np.testing.assert_allclose(shown, sorted(shares, key=abs, reverse=True), rtol=1e-3)
        rows = page.locator("#moved table tr").all_inner_texts()
        run.backward()
        gradient = float(run.optimizer.parameters[NAME].grad.numpy()[PLACE])
        assert sum(shares) == pytest.approx(gradient, rel=1e-4)
        assert float(rows[0].split()[-1]) == pytest.approx(gradient, rel=1e-5)
        run.descend()
        after = float(run.optimizer.parameters[NAME].numpy()[PLACE])
        assert float(rows[-1].split()[-1]) == pytest.approx(after, rel=1e-6)
        page.click("#history summary")
        page.fill("#history input >> nth=0", "2")
        page.fill("#history input >> nth=1", "9")
        page.click("#history button:text-is('replay')")
        page.locator("#history svg.plot").first.wait_for()
        moves = follow(Replay(folder, 2, 9), NAME, PLACE, 2).moves
        order = sorted(moves, key=lambda move: -abs(move.moved))[:5]
        listed = page.locator("#history li").all_inner_texts()
        for line, move in zip(listed, order, strict=True):
            step, x = re.fullmatch(r"update (\d+) (\S+)", line).groups()
            assert int(step) == move.step and float(x) == pytest.approx(move.moved, rel=1e-3)
        page.locator("#history button").nth(1).click()  # to the update, at the same weight
        wait_for_update(page, order[0].step)
        assert f"d({NAME})[3, 17]" in page.inner_text("#sum")
        page.locator(f"#moved h3:has-text('update {order[0].step}')").wait_for()


def test_a_changed_weight_has_no_sentences(folder, browser):
    """The batches are those of the run; after a change, the pass is another one."""
    with served(folder, 3) as server, opened(browser, server.address) as page:
        open_weight(page)
        page.click("#change summary")
        page.fill("#rate", "0.5")
        page.click("#change button:text-is('descend')")
        wait_until(page, "data.changes === 1")
        page.locator("#why section.use").first.wait_for()
        assert page.locator("#moved").count() == 0
        page.click("#run button:text-is('go')")  # the update as it was
        page.locator("#moved").wait_for()
        assert page.evaluate("data.changes") == 0


def test_a_file_has_the_updates_that_were_asked_for(folder, browser, tmp_path, capsys):
    path = tmp_path / "run.html"
    steps = ["--steps", "9", "0", "5"]
    assert npgpt("step", "--run", folder, *steps, "--html", path) == 0
    with opened(browser, path, viewport={"width": 390, "height": 800}) as page:
        wait_for_update(page, 0)
        text = page.inner_text("#run")
        assert "This file has the updates 0, 5, 9." in text and "--serve" in text
        page.focus("#update")
        page.keyboard.press("ArrowRight")
        wait_for_update(page, 5)
        page.fill("#update-number", "7")
        page.press("#update-number", "Enter")
        assert f"npgpt step --run {folder} --at 7 --serve" in page.inner_text("#run")
        assert page.evaluate("data.run.step") == 5
        run = at(folder, 5)
        run.backward()
        gradient = run.optimizer.parameters[NAME].grad.numpy()
        flat = int(np.abs(gradient).argmax())
        page.evaluate(f"state.why.add('why'); open(cotangent(numberOf({NAME!r})), {flat})")
        place = tuple(map(int, np.unravel_index(flat, gradient.shape)))
        shares = Shares(at(folder, 5), [NAME]).of(NAME, place)[0].sum(axis=1)
        shown = [float(x) for x in page.locator("#moved b.adds").all_inner_texts()]
        np.testing.assert_allclose(shown, sorted(shares, key=abs, reverse=True), rtol=1e-3)
        values = page.evaluate(f"storedValues({NAME!r}, {flat})")
        for step, x, g in values:
            run = at(folder, step)
            run.backward()
            parameter = run.optimizer.parameters[NAME]
            assert (x, g) == (parameter.numpy()[place], parameter.grad.numpy()[place])
        assert [step for step, *_ in values] == [0, 5, 9]
        page.click("#history summary")
        assert page.locator("#history svg.plot").count() == 2
        page.evaluate("open(null)")
        for size in SIZES:
            page.set_viewport_size(size)
            assert_fits(page)
        page.evaluate(f"open(cotangent(numberOf({NAME!r})), {flat})")
        address = page.url
    with opened(browser, address) as page:
        wait_for_update(page, 5)
        assert NAME in page.inner_text("#sum")


def test_an_update_of_two_batches(tmp_path, browser):
    (tmp_path / "text.txt").write_text(TEXT)
    run = start(train_config(str(tmp_path / "text.txt"), tmp_path / "run", max_iters=3, n_layer=1))
    train(run, Quiet(run))
    with served(run.folder, 1) as server, opened(browser, server.address) as page:
        page.select_option("#batch-number", "1")
        wait_until(page, "data.run.batch === 1")
        moment = page.evaluate("state.at")
        page.press("#batch-number", "n")  # in a list, a letter chooses from it
        assert page.evaluate("state.at") == moment
        again = at(run.folder, 1)
        shown = page.evaluate(
            "Object.values(data.texts.find(([n]) => n[0] === 'example')[1]).length"
        )
        assert shown == len(again.task.batches(1)[1].inputs)
    html = make_page_of_steps(Course(str(run.folder)), [2])
    data = json.loads(re.search(r'id="data">(.*?)</script>', html, re.S)[1])
    assert len(data["passes"]) == 2 and data["passes"][0] == {}


def test_a_text_in_between(folder, browser):
    """A page of a run may read another text, and goes back to the update."""
    course = Course(str(folder))
    trace = course.go(4)

    from autograd.page.live import Reader
    from npgpt.commands.step import make_reader

    def read(_, text):
        return make_reader([("run", course.run.model, course.run.tokenizer)]).read(0, text)

    with serving(Server(Live(trace, Reader(["run"], read), course))) as server:
        with opened(browser, server.address) as page:
            loss = page.evaluate("data.value")
            page.click("#inside summary")
            page.fill("#text", "line 3")
            page.press("#text", "Enter")
            wait_until(page, "data.run.away")
            open_why = f"state.why.add('why'); open(cotangent(numberOf({NAME!r})), 0)"
            page.evaluate(open_why)
            page.locator("#why section.use").first.wait_for()
            assert page.locator("#moved").count() == 0
            page.fill("#update-number", "4")
            page.press("#update-number", "Enter")
            wait_until(page, "!data.run.away")
            assert page.evaluate("data.value") == loss
    assert course.run.model.training


DATA = {  # of tasks whose batches have other forms: a file, and its text
    "pairs": ("data.tsv", "".join(f"a {i}\tb {7 * i}\n" for i in range(60))),
    "classification": (
        "data.csv", "text,label\n" + "".join(f"film {i},{i % 2}\n" for i in range(40))
    ),
    "masked": ("data.txt", TEXT),
    "images": ("data.npz", ""),
}  # fmt: skip


@pytest.mark.parametrize("task", sorted(DATA))
def test_updates_of_other_tasks(task, tmp_path):
    """The sequences of each task add up to the gradient, and the page is data for JSON."""
    name, text = DATA[task]
    path = tmp_path / name
    if task == "images":
        images = np.random.default_rng(0).integers(0, 256, (30, 1, 4, 4)).astype(np.uint8)
        np.savez(path, images=images, texts=np.array(["dark", "light"] * 15))
    else:
        path.write_text(text)
    words = "--n_layer 1 --n_head 2 --n_embd 8 --block_size 32 --batch_size 4 --max_iters 2"
    more = ["--patch_size", 2] if task == "images" else []
    assert npgpt(
        "train", "--task", task, "--data", path, *words.split(), "--eval_iters", 1,
        "--tokenizer", "byte", "--out_dir", tmp_path / "run", *more,
    ) == 0  # fmt: skip
    course = Course(str(tmp_path / "run"))
    live = Live(course.go(1), course=course)
    assert live.page("http").startswith("<!DOCTYPE html>")
    name = next(n for n, g in course.preview.gradients.items() if g.ndim == 2 and g.any())
    gradient = course.preview.gradients[name]
    place = tuple(map(int, np.unravel_index(np.abs(gradient).argmax(), gradient.shape)))
    found = course.why(name, place)
    total = sum(moved[0] for moved in found["moved"]) + found["unlisted"][1]
    assert total == pytest.approx(found["gradient"], rel=1e-4)
    assert found["gradient"] == gradient[place]


def test_an_interrupted_run_says_what_is_saved(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    run = start(train_config(str(tmp_path / "text.txt"), tmp_path / "run"))
    course = Course(str(run.folder))
    course.go(2)
    entry = course.entry()
    assert entry["n"] == 12 and entry["saved"] == [0] and entry["seconds"] > 0
    assert entry["notes"] == ["saved at step 0: what follows is what the run would do"]
    again = resume(run.folder, {})
    for _ in range(3):
        again.update()
    again.save_state()
    assert Course(str(run.folder)).n == 3


def test_the_stepper_of_an_update_shows_its_batch(folder, tmp_path, capsys):
    (tmp_path / "commands").write_text(f"batch\nwhy {NAME}[3, 17]\nwhy loss\nquit\n")
    step = ["step", "--run", folder, "--at", 3, "--commands", tmp_path / "commands"]
    assert npgpt(*step) == 0
    out = capsys.readouterr().out
    assert len(re.findall(r"^ *\d\.\d{4}  ['\"]", out, re.M)) == 4
    assert out.count("of the whole update is the sum over these sequences") == 1


@pytest.mark.parametrize(
    "request_",
    [
        {"do": "step"}, {"do": "step", "step": 12, "batch": 0},
        {"do": "step", "step": -1, "batch": 0},
        {"do": "step", "step": True, "batch": 0}, {"do": "step", "step": "1", "batch": 0},
        {"do": "step", "step": 0, "batch": 1}, {"do": "step", "step": 0, "batch": None},
        {"do": "follow"}, {"do": "follow", "number": -1, "flat": 0, "first": 0, "last": 1},
    ],
)  # fmt: skip
def test_requests_that_cannot_be_carried_out(request_, folder):
    course = Course(str(folder))
    live = Live(course.go(0), course=course)
    assert list(live.answer(request_ | {"version": 0})) == ["error"]
    assert live.version == 0
    number = next(n for n, x in live._contents["values"].items() if x["name"] == NAME)
    for first, last in ((0, 12), (3, 2), (-1, 2), ("0", 1), (None, None)):
        follow = {"do": "follow", "number": number, "flat": 0, "first": first, "last": last}
        assert list(live.answer(follow | {"version": 0})) == ["error"]
    with pytest.raises(CommandError, match="the updates 0 to 11"):
        course.go(12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--html", "x.html"], "say which updates of the run"),
        (["--html", "x.html", "--steps", "12"], "the run has the updates 0 to 11"),
        (["--html", "x.html", "--steps", "1", "--at", "2"], "give one of the two"),
        (["--steps", "1"], "add --run DIR --html FILE"),
        ([], "--serve to choose on a page"),
    ],
)
def test_options_that_contradict(arguments, message, folder, capsys):
    assert npgpt("step", "--run", folder, *arguments) == 2
    assert message in " ".join(capsys.readouterr().err.split())
