"""The gallery of the documentation: each page opens in a browser, where its text says."""

import html
import importlib.util
import json
import re
from urllib.parse import parse_qs

import numpy as np
import pytest
from conftest import need
from helpers import ROOT, SIZES, assert_fits, opened

import npgpt
from npgpt import GPT, GPTConfig
from npgpt.tokenizers import CharTokenizer, save_tokenizer

BUILT = ROOT / "docs/generated/gallery.md"


@pytest.fixture
def script():
    """The script that makes the gallery."""
    spec = importlib.util.spec_from_file_location("make_gallery", ROOT / "docs/make_gallery.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def gallery(script, tmp_path, monkeypatch):
    """The script that makes the gallery, with an untrained sorter."""
    tokenizer = CharTokenizer.from_text("abcdefghijklmnopqrstuvwxyz>")
    GPT(GPTConfig(tokenizer.n_vocab, 16, 8, 1, 1), seed=0).save_pretrained(tmp_path / "sorter")
    save_tokenizer(tokenizer, tmp_path / "sorter")
    monkeypatch.setattr(script, "SORTER", tmp_path / "sorter")
    return script


def assert_opens(browser, folder, section):
    """Open the page of a section of the gallery, and find what its address names."""
    file, _, link = html.unescape(re.search(r'href="\.\./gallery/([^"]*)"', section)[1]).partition(
        "#"
    )
    assert f'<iframe src="../gallery/{file}#' in section
    parts = parse_qs(link)
    with opened(browser, f"{folder}/{file}#{link}") as page:
        assert page.inner_text("#inspector h2").startswith(f"{parts['step'][0]} of ")
        target = json.loads(parts["of"][0])
        assert page.evaluate("state.target") == target
        assert page.inner_text("#inspector figcaption .name") == page.evaluate(
            "labelOf(state.target)"
        )
        for size in SIZES:
            page.set_viewport_size(size)
            assert_fits(page)
        page.keyboard.press("b")
        page.keyboard.press("n")
        assert page.inner_text("#inspector h2").startswith(f"{parts['step'][0]} of ")


def test_each_page_opens_where_its_text_begins(browser, gallery, tmp_path, monkeypatch):
    problem = ["uwdrnmzl>dlmnruwz", "lzmnrdwu>dlmnruwz"]

    def find_problem(model, tokenizer):
        return np.stack([tokenizer.encode(text) for text in problem]), 2

    monkeypatch.setattr(gallery, "find_problem", find_problem)
    pages = gallery.exhibits()
    assert [make.__name__ for make in pages[3:]] == ["sorter", "training_step"]
    sections = [gallery.write_exhibit(make, tmp_path) for make in pages]
    for section in sections:
        assert_opens(browser, tmp_path, section)
    assert "`uwdrnmzl>...`" in sections[3] and "the letter m is hidden" in sections[3]
    assert "{" not in re.sub(r"```\{raw\}|%7B", "", "".join(sections))


def test_a_sorter_that_does_not_sort_is_not_shown(gallery):
    with pytest.raises(RuntimeError, match=r"sorts in another way.*\n.*08_sorter.py --save"):
        gallery.find_problem(npgpt.load_model(gallery.SORTER), npgpt.load_tokenizer(gallery.SORTER))


def choose_example(page, example):
    """Type the number of an example into the field of the array that is open."""
    page.locator("#inspector figure input[type=number]").first.fill(str(example))
    page.keyboard.press("Tab")


def test_the_three_claims_about_the_sorter_can_be_seen(browser, script, tmp_path):
    """The clicks that the gallery's text names, with the sorter that was trained for it."""
    need(script.SORTER.is_dir(), "the sorter (python docs/make_gallery.py, or sphinx-build docs)")
    N = script.N
    model, tokenizer = npgpt.load_model(script.SORTER), npgpt.load_tokenizer(script.SORTER)
    ids, k = script.find_problem(model, tokenizer)
    letters = [[*tokenizer.decode(row)] for row in ids]
    answer = letters[0][N + 1 :]
    found, link, _ = script.sorter()
    found.to_html(tmp_path / "sorter.html")

    def table(page, row):
        """Return the texts of the columns, and the numbers of a row."""
        columns = page.locator("#inspector table.numbers").first.locator("th[scope=col]")
        cells = page.locator("#inspector table.numbers").first.locator("tr").nth(row + 1)
        numbers = [float(x) for x in cells.locator("button").all_inner_texts()]
        return dict(zip(columns.all_inner_texts()[:N], numbers[:N], strict=True))

    with opened(browser, f"{tmp_path}/sorter.html{link}") as page:
        # 1. a letter looks at those that are left to write
        seen = [table(page, N + i) for i in range(N)]
        assert max(seen[0], key=seen[0].get) == answer[0] and seen[0][answer[0]] > 0.8
        for i in range(1, N - 1):
            later = sum(x for letter, x in seen[i].items() if letter > answer[i - 1])
            assert later > 0.8 * sum(seen[i].values())
        # 2. it matters which letters there are, not where
        choose_example(page, 1)
        assert [*table(page, N)] == letters[1][:N] != letters[0][:N]
        for i in range(N - 1):
            moved = table(page, N + i)
            assert max(moved, key=moved.get) == max(seen[i], key=seen[i].get)
        page.keyboard.press("/")
        page.fill("#search", "logits")
        page.press("#search", "Enter")
        inputs = ids[[0, 1, 0], :-1]
        mask = np.ones_like(inputs, bool)
        mask[2] = inputs[2] != ids[0, N + 1 + k]
        logits = model(inputs, attention_mask=mask)[0].numpy()  # (3, 2N, V)

        def assert_largest(example, row, letter):
            """Click the largest number of a row: it is that of a letter, and is the model's own."""
            column = int(logits[example, row].argmax())
            canvas = page.locator("#inspector canvas").first
            box, (n, m) = canvas.bounding_box(), logits.shape[1:]
            place = {"x": box["width"] * (column + 0.5) / m, "y": box["height"] * (row + 0.5) / n}
            canvas.click(position=place)
            shown = float(page.inner_text("#sum").split("= ")[1])
            assert np.isclose(shown, logits[example, row, column], rtol=1e-3)
            assert page.inner_text("#meaning").endswith(f"token {column} {letter}")

        for example in (0, 1):
            choose_example(page, example)
            for i in (0, 1, N - 1):
                assert_largest(example, N + i, answer[i])
        # 3. the next letter is found by that look alone
        choose_example(page, 2)
        assert_largest(2, N + k, answer[k + 1])


def test_a_page_has_a_bounded_size(gallery, tmp_path, monkeypatch):
    monkeypatch.setattr(gallery, "LARGEST", 10_000)
    with pytest.raises(RuntimeError, match="more than 10,000 bytes"):
        gallery.write_exhibit(gallery.attention_head, tmp_path)


def test_the_gallery_of_the_site_opens(browser):
    """The pages that ``sphinx-build`` has made, with the sorter that was trained for them."""
    need(BUILT.exists(), "the gallery (python docs/make_gallery.py)")
    _, *sections = BUILT.read_text("utf-8").split("\n## ")
    assert len(sections) == 5
    for section in sections:
        assert_opens(browser, BUILT.parent / "pages/gallery", section)
