"""``npgpt look``: what the terminal and the page show, and what cannot be shown."""

import base64
import json
import re
import zlib
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from helpers import draw_model, gguf_llama, npgpt, write_gguf

from npgpt.diagnostics import page
from npgpt.diagnostics.inside import attention_maps, surprises
from npgpt.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from npgpt.tokenizers import ByteTokenizer, CharTokenizer, save_tokenizer
from npgpt.translation import translate
from npgpt.weights.load import load_model

COMMANDS = ["attention", "lens", "surprise", "attribution"]
HOSTILE = '<script>alert("1")</script>&\x1b]0;x\x07\n\t\u202eé'


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model that reads bytes."""
    path = tmp_path_factory.mktemp("model")
    draw_model(vocab_size=256, n_positions=64).save_pretrained(path)
    save_tokenizer(ByteTokenizer(), path)
    return path


def look(command, folder, text, *options):
    return npgpt("look", command, "--model", folder, f"--text={text}", *options)


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("command", COMMANDS)
def test_lines_fit_the_terminal(command, width, folder, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    assert look(command, folder, "to be, or not to be: that is the question") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 3 and max(map(len, lines)) <= width
    assert not any(" %, " in line for line in lines)  # a comma would be taken for a token
    if command == "attention":
        assert look(command, folder, "to be, or not to be", "--layer", 1, "--head", 1) == 0
        assert look(command, folder, "a" * 64, "--layer=-1") == 0
        lines = capsys.readouterr().out.splitlines()
        assert max(map(len, lines)) <= width


def test_json_has_the_numbers_of_the_api(folder, capsys):
    text, model = "to be", load_model(folder)
    ids = np.frombuffer(text.encode(), np.uint8).astype(int)

    def numbers(command, *options):
        assert look(command, folder, text, "--json", *options) == 0
        return json.loads(capsys.readouterr().out)

    found = numbers("surprise")
    assert found["tokens"] == [*text] and found["ids"] == ids.tolist()
    np.testing.assert_allclose(found["surprises"], surprises(model, ids).surprises)
    maps = attention_maps(model, ids)
    np.testing.assert_allclose(numbers("attention")["attention"], maps)
    found = numbers("attention", "--layer", "1", "--head", "0")
    np.testing.assert_allclose(found["attention"], maps[1:, :1])
    assert (found["layers"], found["heads"]) == ([1], [0])
    found = numbers("lens")
    assert np.shape(found["best"]) == (3, 5, 5)
    found = numbers("attribution", "--token", "x", "--against", "y", "--gradients")
    logits = model(ids[None])[0].numpy()[0, -1]
    difference = logits[ord("x")] - logits[ord("y")]
    names = ("heads", "mlps", "attention_biases")
    total = sum(np.sum(found[name]) for name in names) + found["norm_biases"]
    total += found["token_embedding"] + found["position_embedding"]
    np.testing.assert_allclose([total, found["logit"]], difference, rtol=1e-4, atol=1e-5)
    assert len(found["gradients"]["tokens"]) == 5
    found = numbers("attribution", "--position", "1")
    assert found["token"] == model(ids[None])[0].numpy()[0, 1].argmax()


class Reader(HTMLParser):
    """Collects the names of all elements and attributes, and refuses elements left open."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.attributes = [], set(), set()

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attributes}
        if tag not in ("meta", "img", "wbr", "rect", "use", "image"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)

    def handle_endtag(self, tag):
        if tag in ("rect",):
            return
        assert self.open.pop() == tag


@pytest.mark.parametrize("command", COMMANDS)
def test_a_page_holds_text_as_text(command, folder, tmp_path, capsys):
    file = tmp_path / "a.html"
    options = ["--gradients", "--token", "<", "--against", '"'] if command == "attribution" else []
    assert look(command, folder, HOSTILE, "--html", file, *options) == 0
    shown = capsys.readouterr().out
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", shown)
    content = file.read_text("utf-8")
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", content)
    reader = Reader()
    reader.feed(content)
    assert not reader.open and "script" not in reader.tags
    assert not any(name.startswith("on") for name in reader.attributes)
    assert "default-src 'none'" in content and "http" not in re.sub(
        r"http-equiv|http://www.w3.org/2000/svg", "", content
    )


def test_a_page_of_attention_has_a_picture_of_each_head(folder, tmp_path):
    assert look("attention", folder, "to be", "--html", tmp_path / "a.html") == 0
    content = (tmp_path / "a.html").read_text("utf-8")
    links = re.findall(r'<a href="#(l\dh\d)">.*?src="(data:image/png;base64,[^"]*)"', content)
    assert [name for name, _ in links] == ["l0h0", "l0h1", "l1h0", "l1h1"]
    maps = attention_maps(load_model(folder), np.frombuffer(b"to be", np.uint8).astype(int))
    for (name, picture), weights in zip(links, maps.reshape(4, 5, 5), strict=True):
        assert f'id="{name}"' in content
        data = base64.b64decode(picture.partition(",")[2])
        start = data.index(b"IDAT")
        length = int.from_bytes(data[start - 4 : start], "big")
        raw = zlib.decompress(data[start + 4 : start + 4 + length])
        pixels = np.frombuffer(raw, np.uint8).reshape(5, 21)[:, 1:].reshape(5, 5, 4)
        np.testing.assert_allclose(pixels[..., 3] / 255, weights, atol=0.51 / 255)


def test_a_heat_map_is_xml():
    values = np.array([[1.0, -2.0], [0.0, 4.0]])
    picture = page.heat_map(values, ["<a>", "\x1b"], ["&", "x" * 99], 'a "title"')
    root = ElementTree.fromstring(picture)
    cells = root.findall("{*}rect")
    assert [cell.get("fill") for cell in cells] == [
        "rgba(31,119,180,0.25)", "rgba(214,106,0,0.5)", "rgba(31,119,180,0)", "rgba(31,119,180,1)",
    ]  # fmt: skip
    assert cells[0][0].text == "<a>, &: 1" and root.find("{*}title").text == 'a "title"'
    assert float(root.get("width")) < 300  # a long label is cut


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("attention --text=abc --layer 2", "--layer is 2; the model has 2 layers, 0 to 1"),
        ("attention --text=abc --layer=-3", "--layer is -3; the model has 2 layers, 0 to 1"),
        ("attention --text=abc --layer 0 --head 9", "--head is 9; a layer has 2 heads, 0 to 1"),
        ("attention --text=abc --head 1", "say of which layer, with --layer N"),
        ("lens --text=abc --position 3", "--position is 3; the text has 3 tokens, 0 to 2"),
        ("attribution --text=abc --position=-4", "--position is -4; the text has 3 tokens"),
        ("attribution --text=abc --token ab", "--token must be one token, and 'ab' is 2"),
        ("attribution --text=abc --against \x1bb", "--against must be one token"),
        ("lens --text=", "the text is empty; give the text"),
        ("lens", "the text is empty; give the text"),
        ("surprise --text=a", "the text has 1 token; expected at least 2"),
        (f"surprise --text={'a' * 65}", "has 65 tokens, and the model reads at most 64 at once"),
        ("surprise --text=abc --html no/such/file.html", "there is no folder no/such"),
        ("surprise abc", "npgpt look surprise takes options and nothing else"),
        ("lense --text=abc", "unknown command 'lense' of npgpt look; did you mean 'lens'?"),
    ],
)
def test_what_cannot_be_shown_ends_in_one_line(words, message, folder, capsys, tmp_path):
    command, *rest = words.split(" ")
    given = [] if command == "lense" else ["--model", folder]
    assert npgpt("look", command, *given, *rest) == 2
    out, error = capsys.readouterr()
    assert not out and message in error and error.count("\n") == 1 and "\x1b" not in error


def test_a_page_that_would_be_too_large(folder, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("npgpt.commands.look.attention.MOST_PIXELS", 100)
    options = ["--html", tmp_path / "a.html"]
    assert look("attention", folder, "to be", *options, "--layer", "0") == 0
    assert look("attention", folder, "to be, or", *options) == 2
    assert "has 9 tokens, and the maps of 4 heads have room for 5" in capsys.readouterr().err


def test_other_models(tmp_path, capsys):
    """A Llama of a GGUF file, a GPT-1, a model whose tokenizer has fewer tokens, and an encoder."""
    write_gguf(tmp_path / "llama.gguf", *gguf_llama())
    characters = CharTokenizer.from_text("to be,or")
    for name, options in {"gpt1": dict(norm_position="post"), "wide": dict()}.items():
        draw_model(vocab_size=12, **options).save_pretrained(tmp_path / name)
        save_tokenizer(characters, tmp_path / name)
    for name in ("llama.gguf", "gpt1", "wide"):
        for command in COMMANDS:
            assert look(command, tmp_path / name, "to be", "--html", tmp_path / "a.html") == 0
    from npgpt.models.bert import Bert, BertConfig

    config = BertConfig(vocab_size=256, n_positions=16, n_embd=16, n_layer=2, n_head=2)
    Bert(config).save_pretrained(tmp_path / "bert")
    save_tokenizer(ByteTokenizer(), tmp_path / "bert")
    capsys.readouterr()
    assert look("attention", tmp_path / "bert", "to be") == 0
    assert look("lens", tmp_path / "bert", "to be") == 2
    assert "of the type bert; this needs one that predicts next tokens" in capsys.readouterr().err


def test_cross_attention(tmp_path, capsys):
    config = EncoderDecoderConfig(
        vocab_size=256, n_positions=16, n_embd=16, n_layer=2, n_head=2, eos_token_id=33
    )
    EncoderDecoder(config, seed=1).save_pretrained(tmp_path)
    save_tokenizer(ByteTokenizer(), tmp_path)
    model, tokenizer = load_model(tmp_path), ByteTokenizer()

    def numbers(text, *options):
        assert look("attention", tmp_path, text, "--json", *options) == 0
        return json.loads(capsys.readouterr().out)

    source, target = tokenizer.encode("to be"), [*tokenizer.encode("or"), 33]
    inside = model.activations(source[None], None, model.shifted(np.array([target])))
    expected = np.stack([each.numpy()[0] for each in inside.cross_attentions])
    found = numbers("to be\tor")
    assert found["tokens"] == [*"to be"] and found["target_tokens"] == ["o", "r", "!"]
    np.testing.assert_allclose(found["cross_attention"], expected, atol=1e-6)
    one = numbers("to be\tor", "--layer", 1, "--head", 0)
    np.testing.assert_allclose(one["cross_attention"], expected[1:, :1], atol=1e-6)
    assert numbers("to be")["target_ids"] == translate(model, tokenizer, ["to be"])[0].ids

    picture = tmp_path / "a.html"
    assert look("attention", tmp_path, "to be\tor", "--html", picture, "--layer", 0) == 0
    out = capsys.readouterr().out
    assert "0 t  1 o  2 ·  3 b  4 e" in out and "layer 0, the mean of 2 heads" in out
    assert "Layer 0, the mean of 2 heads" in picture.read_text()
    for text, said in (
        ("a" * 17, "17 tokens, and the model reads at most 16"),
        ("a\t" + "b" * 16, "the target has 17 tokens"),
        ("", "is empty"),
    ):
        assert look("attention", tmp_path, text) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1
    assert look("lens", tmp_path, "to be") == 2


def test_the_latest_run(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("the then there " * 99)
    sizes = "--n_layer 1 --n_head 2 --n_embd 8 --block_size 8 --max_iters 1 --eval_iters 1"
    assert npgpt(*f"train --data a.txt {sizes}".split()) == 0
    for command in COMMANDS:
        assert npgpt("look", command, "--text", "there") == 0


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_stepper_shows_the_same(folder, width, tmp_path, capsys, monkeypatch):
    """``attn``, ``lens`` and ``logits`` of the stepper are those of ``npgpt look``."""
    monkeypatch.setenv("COLUMNS", str(width))
    text = "to be or not"

    def shown(command, *options):
        assert look(command, folder, text[:-1], *options) == 0
        return capsys.readouterr().out.splitlines()

    overview = shown("attention")[:-1]
    head, lens = shown("attention", "--layer", 1, "--head", 1), shown("lens", "--position", 4)
    terms = shown("attribution", "--position", 4, "--token", "x")
    said = ["attn", "attn 1 -1", "lens 4", "logits 4 'x'", "logits", "attn 7", "attn x", "lens 99",
            "logits 4 'xx'", "set d(loss) * 2", "set transformer.wte.weight[0, 0] = 3", "attn 0",
            "help attn"]  # fmt: skip
    (tmp_path / "commands").write_text("\n".join(said))
    step = ["step", "--model", folder, f"--text={text}", "--commands", tmp_path / "commands"]
    assert npgpt(*step) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    for expected in (overview, head, lens, terms):
        at = lines.index(expected[0])
        assert lines[at : at + len(expected)] == expected
    assert out.count("the sum of all terms") == 2
    assert "the layer is 7; the model has 2 layers, 0 to 1" in out
    assert "'x': expected numbers, as in attn 3 0" in out
    assert "the position is 99; there are 11 tokens, 0 to 10" in out
    assert "TOKEN must be one token, and 'xx' is 2" in out
    assert out.count("as recorded, without what was set") == 1


def test_the_stepper_of_a_model_that_predicts_nothing(tmp_path, capsys):
    folder = tmp_path / "model"
    config = EncoderDecoderConfig(256, n_positions=8, n_embd=8, n_layer=1, n_head=2)
    EncoderDecoder(config).save_pretrained(folder)
    save_tokenizer(ByteTokenizer(), folder)
    (tmp_path / "commands").write_text("attn\nlens\nprint logits\n")
    step = ["step", "--model", folder, "--text", "to\tbe", "--commands", tmp_path / "commands"]
    assert npgpt(*step) == 0
    out = capsys.readouterr().out
    assert out.count("of the type") == 2 and "(·, position, token)" in out
