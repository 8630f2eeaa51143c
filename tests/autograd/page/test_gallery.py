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
def gallery(tmp_path, monkeypatch):
    """The script that makes the gallery, with an untrained sorter."""
    spec = importlib.util.spec_from_file_location("make_gallery", ROOT / "docs/make_gallery.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    tokenizer = CharTokenizer.from_text("abcdefghijklmnopqrstuvwxyz>")
    GPT(GPTConfig(tokenizer.n_vocab, 16, 8, 1, 1), seed=0).save_pretrained(tmp_path / "sorter")
    save_tokenizer(tokenizer, tmp_path / "sorter")
    monkeypatch.setattr(module, "SORTER", tmp_path / "sorter")
    return module


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
