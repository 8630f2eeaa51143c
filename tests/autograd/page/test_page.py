"""The page of a trace, as a file: what it holds, and what it refuses to run."""

import base64
import hashlib
import json
import os
import re

import numpy as np
import pytest
from helpers import npgpt

import autograd
from autograd.page import arrays, make_page
from autograd.page.contents import collect
from autograd.stepper import Trace, trace
from autograd.stepper.session import Session

SCRIPT = """
import numpy as np
import autograd

x = autograd.tensor([1.0, 2.0], requires_grad=True)
loss = (x * x).sum()
loss.backward()
"""


def contents(page):
    return json.loads(
        re.search(r'<script type="application/json" id="data">(.*?)</script>', page)[1]
    )


def squares(x):
    with autograd.record():
        x = autograd.tensor(x, requires_grad=True)
        loss = (x * x).sum()
    return trace(loss)


def test_only_its_own_script_and_style_may_run():
    page = make_page(squares([1.0, 2.0]))
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    assert policy.startswith("default-src 'none';") and "unsafe" not in policy
    *_, script = re.findall(r"<script>(.*?)</script>", page, re.S)
    style = re.search(r"<style>(.*?)</style>", page, re.S)[1]
    for text in (script, style):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    assert "://" not in re.sub(r'"http://www.w3.org/[^"]*"', "", script + style)


def test_names_and_lines_are_data(tmp_path):
    found = squares([1.0])
    evil = "</script><script>alert(1)</script>\n\x1b"
    for number in list(found.recording.names):
        found.recording.names[number] = f"{evil}{number}"
    page = make_page(found)
    assert page.count("<script") == 2
    assert page.count("</script>") == 2
    assert any(v["name"].startswith("</script>") for v in contents(page)["values"].values())


def test_a_trace_from_elsewhere_shows_no_other_file(tmp_path):
    """It may name any file of this computer; scripts are shown if they have its line."""
    script = tmp_path / "net.py"
    script.write_text("secret = 1\nloss = (x * x).sum()\n")
    (tmp_path / "key.txt").write_text("-----BEGIN KEY-----\nsecret\n")
    os.mkfifo(tmp_path / "pipe.py")
    squares([1.0, 2.0]).save(tmp_path / "trace")
    path = tmp_path / "trace" / "trace.json"
    stored = json.loads(path.read_text())
    for line, expected in [
        (f"{script}:2: loss = (x * x).sum()", ["net.py"]),
        (f"{script}:2: another line", []), (f"{script}:2", []), (f"{script}:1: loss", []),
        (f"{script}:{'9' * 5000}: loss", []), (f"{script}:0: loss = (x * x).sum()", []),
        (f"{tmp_path}/key.txt:1: -----BEGIN KEY-----", []), ("/dev/zero:1: x", []),
        (f"{tmp_path}/pipe.py:1: x", []), (f"{tmp_path}:1: x", []),
    ]:  # fmt: skip
        for call in stored["calls"]:
            call["line"] = line
        path.write_text(json.dumps(stored))
        found = Trace.load(tmp_path / "trace")
        data = contents(make_page(found))
        assert [file["name"] for file in data["files"]] == expected, line
        assert ("secret" in str(data)) == bool(expected)
        listed = [text for _, text, _ in Session(found).source("")]
        assert ("secret = 1" in listed) == bool(expected)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_every_number_is_in_the_file(dtype):
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(dtype)
    data = contents(make_page(squares(x)))
    (entry,) = (data["arrays"][v["array"]] for v in data["values"].values() if v["name"] == "x")
    numbers = np.frombuffer(base64.b64decode(entry["data"]), "<" + entry["type"])
    assert np.array_equal(numbers.reshape(entry["shape"]).astype(dtype), x)
    assert entry["norm"] == pytest.approx(np.linalg.norm(x.astype(float)))
    sizes = [abs(value) for _, value in entry["largest"]]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] == np.abs(x).max()


def test_large_arrays_keep_a_corner_and_the_largest_elements(monkeypatch):
    monkeypatch.setattr(arrays, "MOST", 3000)
    x = np.zeros((100, 200), np.float32)
    x[99, 199], x[50, 7] = -9, np.nan
    with np.errstate(all="ignore"):
        data = collect(squares(x))
    assert sum(np.prod(e.get("kept", e["shape"])) for e in data["arrays"]) <= 3000
    (entry,) = (data["arrays"][v["array"]] for v in data["values"].values() if v["name"] == "x")
    assert entry["shape"] == [100, 200] and entry["kept"] < [100, 200]
    assert entry["largest"][:2] == [[50 * 200 + 7, "nan"], [99 * 200 + 199, -9.0]]
    assert entry["nonfinite"] == 1 and entry["zeros"] == 100 * 200 - 2


@pytest.mark.parametrize("block", [arrays.BLOCK, 100])
def test_the_largest_of_many_elements(block, monkeypatch):
    """They are found block by block; some blocks have several of them, and many have none."""
    monkeypatch.setattr(arrays, "BLOCK", block)
    x = np.random.default_rng(0).normal(size=100_003)
    x[5_000:100_000:7] = 0
    x[[42, 43, 44]] = 9, -8, 7
    expected = np.argsort(-np.abs(x), kind="stable")[: arrays.LISTED]
    kept = arrays.Arrays()
    kept.add(x)
    (entry,) = kept.entries()
    rows = np.append(x, 0.5).reshape(2, -1)
    kept.add(np.asfortranarray(rows))
    kept.add(rows[:, ::-1].T)
    places = [[flat for flat, _ in e["largest"]] for e in kept.entries()]
    assert places[1] == places[0] == expected.tolist()
    (i, j), n = np.divmod(expected, rows.shape[1]), rows.shape[1]
    assert places[2] == ((n - 1 - j) * 2 + i).tolist()
    assert [i for i, _ in entry["largest"]] == expected.tolist()
    assert entry["norm"] == pytest.approx(np.linalg.norm(x), rel=1e-12)
    assert entry["zeros"] == np.count_nonzero(x == 0) and entry["nonfinite"] == 0


@pytest.mark.parametrize("x", [np.zeros((0, 3)), np.array(2.0), np.array([np.inf, -np.inf])])
def test_arrays_of_every_kind(x):
    with np.errstate(all="ignore"):
        assert contents(make_page(squares(x)))["steps"]


def test_a_module_holds_the_picture_of_its_inside():
    from npgpt import GPT, GPTConfig

    model = GPT(GPTConfig(vocab_size=9, n_positions=4, n_embd=6, n_layer=2, n_head=2)).eval()
    with autograd.record():
        _, loss = model(np.array([[1, 2, 3]]), targets=np.array([[2, 3, 4]]))
    data = collect(trace(loss))
    made = {n for call in data["calls"] for n in call["results"]}
    numbers = {n for box in data["graph"]["boxes"] for n in box["numbers"]}
    assert numbers >= made and len(data["graph"]["boxes"]) < 9
    found = {}

    def visit(picture):
        for box in picture["boxes"]:
            if inside := box.get("inside"):
                found[box["title"]] = box, inside
                within = [b for b in inside["boxes"] if b["kind"] in ("op", "module")]
                assert sorted(n for b in within for n in b["numbers"]) == sorted(box["numbers"])
                visit(inside)

    visit(data["graph"])
    assert found["transformer.h"][0]["label"] == "h: 2 blocks"
    block, inside = found["transformer.h.1"]
    assert block["label"] == "h.1"
    ends = {"x = add", ""}  # the residual line, from the block before to what reads the block
    line = [b["x"] for b in inside["boxes"] if b["label"] in ends and b["kind"] in ("op", "port")]
    assert len(line) == 4 and max(line) - min(line) < 0.5
    passing = [points for *_, points in inside["lines"] if points[-1][1] - points[0][1] > 1]
    assert len(passing) == 2  # beside the attention, and beside the MLP
    assert all(abs(x - line[0]) < 0.5 for points in passing for x, _ in points)
    _, norm = found["transformer.h.1.ln_1"]
    assert {b["label"] for b in norm["boxes"] if b["kind"] == "leaf"} == {"weight", "bias"}


def test_the_command_writes_a_page(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(SCRIPT)
    assert npgpt("step", "net.py", "--html", "pass.html", "--save", "kept") == 0
    assert "pass.html is written" in capsys.readouterr().out
    data = contents((tmp_path / "pass.html").read_text())
    assert "loss = (x * x).sum()" in data["files"][0]["lines"]
    assert npgpt("step", "--trace", "kept", "--html", "again.html") == 0
    again = contents((tmp_path / "again.html").read_text())
    assert again["values"] == data["values"] and again["steps"] == data["steps"]
    Trace.load("kept").to_html("third.html")
    for wrong, message in [
        (["--html", "net.py"], "is to be an .html file"),
        (["--html", "x.html", "--source", "y.py"], "leave out --source"),
        (["--html", "missing/x.html"], "missing"),
    ]:
        assert npgpt("step", "net.py", *wrong) == 2
        assert message in capsys.readouterr().err
    assert (tmp_path / "net.py").read_text() == SCRIPT


def test_attention_maps_are_kept_whole_where_arrays_are_reduced(monkeypatch):
    """The page shows a picture of each head, also of a model whose other arrays are corners."""
    from npgpt import GPT, GPTConfig

    model = GPT(GPTConfig(vocab_size=99, n_positions=16, n_embd=24, n_layer=2, n_head=3)).eval()
    ids = np.arange(13)[None]
    with autograd.record():
        _, loss = model(ids[:, :-1], targets=ids[:, 1:])
    found = trace(loss)
    for most, is_whole in [(8_000, True), (2_000, False)]:
        monkeypatch.setattr(arrays, "MOST", most)
        data = collect(found)
        maps = [
            data["arrays"][ref["array"]] for call in data["calls"] if call["op"] == "attention"
            for ref in call["refs"] if ref["name"] in ("p", "dp")
        ]  # fmt: skip
        assert [entry["shape"] for entry in maps] == [[1, 3, 12, 12]] * 4
        assert ["kept" not in entry for entry in maps] == [is_whole] * 4
        assert sum("kept" in entry for entry in data["arrays"]) > 10
        assert sum(np.prod(e.get("kept", e["shape"])) for e in data["arrays"]) <= most
