"""GGUF files that we write: our own reader gives back every number, and the tokenizer."""

import numpy as np
import pytest
from helpers import draw_model, gguf_llama, npgpt, write_gguf

from npgpt import UserError, load_model, load_tokenizer
from npgpt.tokenizers import ByteTokenizer, CharTokenizer, save_tokenizer, train_bpe
from npgpt.weights.export import export_gguf
from npgpt.weights.gguf import QUANTIZED, open_gguf

WIDE = dict(vocab_size=300, n_embd=64)
LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=8192)  # fmt: skip
MODELS = {
    "gpt2": dict(),
    "gpt2, not tied": dict(tie_word_embeddings=False, n_inner=96, layer_norm_epsilon=1e-4),
    "gpt2, without biases, with sines": dict(bias=False, position_embedding="sinusoidal"),
    "llama": dict(model_type="llama", n_head=4, n_kv_head=2),
    "llama, biases": dict(model_type="llama", attention_bias=True, mlp_bias=True),
    "llama, tied, wide heads": dict(model_type="llama", head_dim=48, tie_word_embeddings=True),
    "llama, linear": dict(model_type="llama", rope_scaling=dict(rope_type="linear", factor=4.0)),
    "llama, yarn": dict(model_type="llama", rope_scaling=dict(rope_type="yarn", factor=4.0)),
    "llama3": dict(model_type="llama", rope_theta=5e5, rope_scaling=LLAMA3),
    "mistral": dict(model_type="mistral", rms_norm_eps=1e-5),
    "qwen2": dict(model_type="qwen2", n_head=4, n_kv_head=2, rope_theta=1e6),
}


def tokenizer_of(n_tokens=290):
    tokenizer = train_bpe("the then there, to be or not to be " * 9, n_tokens,
                          special_tokens=["<|endoftext|>", "<|user|>"])  # fmt: skip
    tokenizer.chat_template = "{{ messages[0].content }}"
    return tokenizer


@pytest.fixture
def folder(tmp_path):
    def save(tokenizer=None, **options):
        draw_model(**WIDE | options).save_pretrained(tmp_path / "model")
        save_tokenizer(tokenizer or tokenizer_of(), tmp_path / "model")
        return tmp_path / "model"

    return save


@pytest.mark.parametrize("name", MODELS)
def test_every_number_is_read_back(name, folder, tmp_path):
    source, file = folder(**MODELS[name]), tmp_path / "a.gguf"
    export_gguf(source, file)
    before, after = load_model(source), load_model(file)
    ours, theirs = before.state_dict(), after.state_dict()
    for key, array in ours.items():
        assert np.array_equal(theirs[key], array), key
    ids = np.arange(14)[None] * 17 % 300
    assert np.array_equal(before(ids)[0].numpy(), after(ids)[0].numpy())


@pytest.mark.parametrize("kind", ["F16", *QUANTIZED])
@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen2"])
def test_types(kind, name, folder, tmp_path):
    """The numbers are those of the type; the model computes nearly the same, packed as well."""
    source, file = folder(**MODELS[name] | dict(n_inner=96)), tmp_path / "a.gguf"
    export_gguf(source, file, kind)
    before, after = load_model(source).state_dict(), load_model(file).state_dict()
    for key, array in before.items():
        if array.ndim == 1 or "wpe" in key:
            assert np.array_equal(after[key], array)
        else:
            bits = {"F16": 11, "Q8_0": 8, "Q4_1": 4, "Q4_0": 3}[kind]
            error = np.abs(after[key] - array).max() / np.abs(array).max()
            assert 0 < error < 1.1 * 2.0**-bits
    kinds = {t.kind for t in open_gguf(file).tensors.values()}
    assert kinds == {"F32", kind}
    ids = np.arange(9)[None] * 17 % 300
    whole, packed = load_model(file), load_model(file, packed=True)
    np.testing.assert_allclose(whole(ids)[0].numpy(), packed(ids)[0].numpy(), atol=1e-3)
    second = tmp_path / "b.gguf"
    export_gguf(file, second, kind)  # what is rounded already stays as it is, but for Q4's ends
    if kind in ("F16", "Q8_0"):
        again = load_model(second).state_dict()
        for key, array in load_model(file).state_dict().items():
            np.testing.assert_allclose(again[key], array, rtol=2e-3, atol=1e-6)


def test_the_tokenizer_is_read_back(folder, tmp_path):
    source, file = folder(), tmp_path / "a.gguf"
    export_gguf(source, file)
    before, after = load_tokenizer(source), load_tokenizer(file)
    for text in ["to be<|endoftext|> or not<|user|>\n\n1234  é 今天", ""]:
        ids = before.encode(text, allowed_special="all")
        assert ids.tolist() == after.encode(text, allowed_special="all").tolist()
        assert after.decode(ids) == text
    assert after.chat_template == before.chat_template
    end = before.special_tokens["<|endoftext|>"]
    assert load_model(file).generation_config["eos_token_id"] == end
    assert open_gguf(file).metadata["tokenizer.ggml.tokens"][-1] == "[PAD299]"


def test_bytes_and_ids_of_generation(folder, tmp_path):
    file = tmp_path / "a.gguf"
    source = folder(ByteTokenizer(["<|im_end|>"]))
    model = load_model(source)
    model.generation_config = {"eos_token_id": [256, 10], "pad_token_id": 0}
    model.save_pretrained(source)
    export_gguf(source, file)
    assert load_model(file).generation_config == model.generation_config
    text = "né<|im_end|>"
    ids = load_tokenizer(file).encode(text, allowed_special="all")
    assert ids.tolist() == [*"né".encode(), 256]


def test_a_gguf_file_again(tmp_path):
    """A file of Q8_0, exported as F32, has the same numbers and the same tokenizer."""
    write_gguf(tmp_path / "a.gguf", *gguf_llama({"ffn_up": "Q8_0", "attn_q": "Q4_1"}))
    export_gguf(tmp_path / "a.gguf", tmp_path / "b.gguf")
    a, b = (load_model(tmp_path / name).state_dict() for name in ("a.gguf", "b.gguf"))
    assert all(np.array_equal(b[name], array) for name, array in a.items())
    a, b = (load_tokenizer(tmp_path / name) for name in ("a.gguf", "b.gguf"))
    assert a.encode("the 12").tolist() == b.encode("the 12").tolist()


def test_the_command(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder()
    assert npgpt("export", "model", "a.gguf", "--gguf", "--type", "Q8_0") == 0
    assert "a.gguf: llama.cpp opens it" in capsys.readouterr().out
    assert npgpt("generate", "--model", "a.gguf", "--prompt", "to", "--max_new_tokens", 2) == 0
    for words, message in {
        "model a.gguf --gguf": "a.gguf exists; export to a new file",
        "model b.gguf": "for a GGUF file add --gguf",
        "model b --type Q8_0": "for a GGUF file add --gguf",
        "model": "as in: npgpt export out/0001 model.gguf --gguf",
        "model no/b.gguf --gguf": "no/b.gguf",
        "model b.bin --gguf": "b.bin must end with .gguf",
    }.items():
        capsys.readouterr()
        assert npgpt("export", *words.split()) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.gguf", "model"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(norm_position="post"), "openai-gpt model|no place for its .*norm_position 'post'"),
        (dict(window_size=4), "npgpt model|no place for its .*window_size 4"),
        (dict(activation_function="relu"), "npgpt model|no place for its .*activation"),
        (dict(scale_attn_by_inverse_layer_idx=True), "no place for its scale_attn_by_inverse"),
        (dict(model_type="mistral", window_size=4), "no place for its window_size 4"),
        (
            dict(model_type="llama", rope_scaling=LLAMA3 | dict(low_freq_factor=0.5)),
            "are not those of Llama 3",
        ),
        (
            dict(model_type="llama", rope_scaling=dict(rope_type="yarn", factor=2, beta_fast=9)),
            "no place for its rope_scaling",
        ),
    ],
)
def test_models_that_a_file_cannot_hold(options, message, folder, tmp_path):
    with pytest.raises(UserError, match=message):
        export_gguf(folder(**options), tmp_path / "a.gguf")
    assert not (tmp_path / "a.gguf").exists()


def test_tokenizers_that_a_file_cannot_hold(folder, tmp_path):
    cut = train_bpe("to be " * 9, 260, pattern=r"\S+|\s+")
    for tokenizer, message in (
        (CharTokenizer.from_text("to be"), "no tokenizer of the kind char"),
        (cut, "one of the ways to cut a text that llama.cpp knows"),
    ):
        with pytest.raises(UserError, match=message):
            export_gguf(folder(tokenizer), tmp_path / "a.gguf")
    with pytest.raises(UserError, match="has a tokenizer of ... tokens, and its model"):
        export_gguf(folder(vocab_size=256), tmp_path / "a.gguf")
    assert not (tmp_path / "a.gguf").exists()


@pytest.mark.parametrize("kind", ["F16", *QUANTIZED])
def test_a_number_that_is_too_large(kind, folder, tmp_path):
    source = folder()
    model = load_model(source)
    model.transformer.h[0].mlp.c_fc.weight.data[0, 0] = 1e8
    model.save_pretrained(source)
    with pytest.raises(UserError, match="blk.0.ffn_up.weight cannot be written: .* 1e.08, too"):
        export_gguf(source, tmp_path / "a.gguf", kind)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_rows_that_cannot_be_quantized(folder, tmp_path):
    export_gguf(folder(n_inner=40), tmp_path / "a.gguf", "Q8_0")
    tensors = open_gguf(tmp_path / "a.gguf").tensors
    assert (tensors["blk.0.ffn_up.weight"].kind, tensors["blk.0.ffn_down.weight"].kind) == (
        "Q8_0", "F16",
    )  # fmt: skip


@pytest.mark.parametrize("kind", QUANTIZED)
def test_blocks(kind):
    """A block of zeros stays zero, and the rounding error is at most half a step."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal((50, 32)).astype(np.float32) * np.logspace(-3, 2, 50)[:, None]
    values = values.astype(np.float32)
    values[0] = 0
    blocks = np.empty(50, QUANTIZED[kind].block)
    QUANTIZED[kind].encode(values, blocks)
    again = QUANTIZED[kind].decode(blocks)
    assert not again[0].any()
    step = np.abs(blocks["d"].astype(np.float64))[:, None]
    slack = 2e-3 * np.abs(values).max(axis=1, keepdims=True)  # scales are float16
    limit = step if kind == "Q4_0" else step / 2  # the value across from the largest is cut off
    assert (np.abs(again - values) <= limit + slack).all()
