"""GGUF files against llama.cpp's own library, transformers, and the tokenizers library."""

import os

import numpy as np
import pytest
from helpers import draw_model, gguf_llama, gguf_vocabulary, write_gguf
from hypothesis import given
from hypothesis import strategies as st

if os.environ.get("NPGPT_TEST_ALL") == "1":
    import gguf
    import tokenizers
else:
    gguf = pytest.importorskip("gguf")
    tokenizers = pytest.importorskip("tokenizers")
from tokenizers import decoders, models, pre_tokenizers  # noqa: E402

from npgpt import GPT, generate, load_model, load_tokenizer  # noqa: E402
from npgpt.tokenizers import save_tokenizer, train_bpe  # noqa: E402
from npgpt.tokenizers.gguf import PATTERNS, WHOLE  # noqa: E402
from npgpt.tokenizers.huggingface import byte_letters, write_hugging_face  # noqa: E402
from npgpt.weights.export import export_gguf  # noqa: E402
from npgpt.weights.gguf import QUANTIZED, open_gguf  # noqa: E402

pytestmark = pytest.mark.usefixtures("oracle")


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", *QUANTIZED])
def test_a_file_of_the_library(kind, tmp_path):
    """Metadata and values of a file that the library wrote are those that the library reads."""
    path, rng = tmp_path / "a.gguf", np.random.default_rng(0)
    weight, scale = rng.standard_normal((24, 96), np.float32), np.ones(7, np.float32)
    number = gguf.GGMLQuantizationType[kind]
    packed = gguf.quants.quantize(weight, number)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_custom_alignment(64)
    writer.add_rope_freq_base(1e5)
    writer.add_array("tokens", ["a", "é", ""])
    writer.add_array("numbers", [1, 2, 3])
    writer.add_bool("yes", True)
    writer.add_tensor("scale", scale)
    writer.add_tensor("w", packed, raw_dtype=number)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = open_gguf(path)
    assert found.metadata["general.architecture"] == "llama"
    assert found.metadata["llama.rope.freq_base"] == 1e5 and found.metadata["yes"] is True
    assert found.metadata["tokens"] == ["a", "é", ""]
    assert found.metadata["numbers"].tolist() == [1, 2, 3]
    assert np.array_equal(found.tensors["scale"].read(np.float32), scale)
    expected = gguf.quants.dequantize(packed, number)
    values = found.tensors["w"].read(np.float32)
    assert values.shape == weight.shape and np.array_equal(values, expected)


@pytest.mark.parametrize("kind", QUANTIZED)
def test_blocks_are_those_of_the_library(kind):
    rng = np.random.default_rng(0)
    values = rng.standard_normal((60, 64), np.float32) * np.logspace(-4, 3, 60)[:, None]
    values = values.astype(np.float32)
    values[0], values[1, :32], values[2] = 0, 1, np.round(values[2] * 1e4) / 2  # halves
    blocks = np.empty((60, 2), QUANTIZED[kind].block)
    QUANTIZED[kind].encode(values.reshape(60, 2, 32), blocks)
    expected = gguf.quants.quantize(values, gguf.GGMLQuantizationType[kind])
    assert blocks.tobytes() == expected.tobytes()


@pytest.mark.parametrize("kind", ["F32", "F16", *QUANTIZED])
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "qwen2"])
def test_an_exported_file(architecture, kind, tmp_path):
    """The library reads every number as we do; transformers computes the same from the file."""
    options = {} if architecture == "gpt2" else {"model_type": architecture, "n_kv_head": 2}
    tokenizer = train_bpe("".join(PARTS) * 3, 320, special_tokens=["<|endoftext|>"])
    # transformers reads no other n_inner and n_positions of a GPT-2
    sizes = dict(vocab_size=330, n_embd=64, n_head=4, n_inner=256, n_positions=1024)
    draw_model(**sizes, **options).save_pretrained(tmp_path / "model")
    save_tokenizer(tokenizer, tmp_path / "model")
    file = tmp_path / "a.gguf"
    export_gguf(tmp_path / "model", file, kind)
    reader = gguf.GGUFReader(file)
    ours = open_gguf(file)
    for tensor in reader.tensors:
        expected = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        assert np.array_equal(ours.tensors[tensor.name].read(np.float32), expected)
    assert len(reader.tensors) == len(ours.tensors)
    for key, value in ours.metadata.items():
        assert np.array_equal(reader.fields[key].contents(), value), key
    ids = np.arange(30)[None] * 11 % 330
    expected = logits_of(transformers_of(file), ids)
    spread = np.abs(expected).max()
    found = load_model(file)(ids)[0].numpy()
    np.testing.assert_allclose(found / spread, expected / spread, atol=1e-5)


def transformers_of(path):
    """Return transformers' model of a GGUF file, in float32."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    )
    return model.eval()


def logits_of(theirs, ids):
    import torch

    with torch.no_grad():
        return theirs(torch.tensor(ids)).logits.numpy()


@pytest.mark.parametrize("kind", QUANTIZED)
@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_a_model_is_that_of_transformers(architecture, kind, tmp_path):
    """Queries and keys too: in a file of a Llama, their rows stand in another order."""
    path = tmp_path / "a.gguf"
    metadata, tensors = gguf_llama({"norm": "F32", "": kind})
    if architecture == "qwen2":
        metadata = {key.replace("llama.", "qwen2."): value for key, value in metadata.items()}
        metadata["general.architecture"] = "qwen2"
        biases = np.random.default_rng(1).standard_normal((3, 64), np.float32)
        for name, bias, width in zip("qkv", biases, (64, 32, 32), strict=True):
            for i in range(2):
                tensors[f"blk.{i}.attn_{name}.bias"] = "F32", bias[:width]
    metadata |= gguf_vocabulary(bos_token_id=0, unknown_token_id=0, padding_token_id=0)
    write_gguf(path, metadata, tensors)
    ours, theirs = GPT.from_pretrained(path), transformers_of(path)
    ids = np.arange(30)[None] * 11 % 259
    expected = logits_of(theirs, ids)
    spread = np.abs(expected).max()
    np.testing.assert_allclose(ours(ids)[0].numpy() / spread, expected / spread, atol=1e-5)


# ---- tokenizers


def tokenizer_of(tokens, merges, special, cut):
    """Return what the tokenizers library makes of a vocabulary and a name of llama.cpp's."""
    vocab = {token: i for i, token in enumerate(tokens)}
    pairs = [tuple(line.split(" ")) for line in merges]
    made = tokenizers.Tokenizer(models.BPE(vocab, pairs, ignore_merges=cut in WHOLE))
    if cut in ("gpt-2", "smollm"):
        digits = [pre_tokenizers.Digits(individual_digits=True)] if cut == "smollm" else []
        steps = [*digits, pre_tokenizers.ByteLevel(add_prefix_space=False)]
    else:
        words = pre_tokenizers.Split(tokenizers.Regex(PATTERNS[cut][0]), "isolated")
        steps = [words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    made.pre_tokenizer = pre_tokenizers.Sequence(steps)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(
        [tokenizers.AddedToken(token, special=True, normalized=False) for token in special]
    )
    return made


PARTS = [
    "def f(x):\n    return x[0] ** 2\n", "1234567", "3.14159e-10", "   ", "\n\n\n", "\t", "\r\n",
    " the", "The", "don't", "WE'LL", "今天天气很好", "，", "😀👩\u200d👩\u200d👧", "é", "e\u0301",
    "½²٣", "ß", " ", "\u00a0", "\u3000", "\x04", "\x1d", "\U00040000", "<|end|>", "<|im_start|>",
    "a", "!?", "_",
]  # fmt: skip
TEXT = st.lists(st.one_of(st.sampled_from(PARTS), st.text(max_size=8))).map("".join)


@pytest.fixture(scope="module", params=PATTERNS)
def pair(request, tmp_path_factory):
    """A small tokenizer in a GGUF file, and the same of the tokenizers library."""
    cut = request.param
    path = tmp_path_factory.mktemp("gguf") / "a.gguf"
    letters = byte_letters()
    trained = train_bpe("".join(PARTS) * 3 + "the then there", 330, special_tokens=())
    spelled = {token: "".join(letters[byte] for byte in token) for token in trained.ranks}
    lacking = {letters[4], letters[0xF1]} if cut == "smollm" else set()
    tokens = ["<|end|>", *(token for token in spelled.values() if token not in lacking)]
    merges = [f"{spelled[left]} {spelled[right]}" for left, right in trained.merges]
    kept = [line for line in merges if not lacking & {*line}]
    tokens = [token for token in tokens if not lacking & {*token}]
    kinds = [3] + [1] * (len(tokens) - 1)
    changes = {"pre": cut, "tokens": tokens, "token_type": kinds, "merges": kept,
               "add_bos_token": False}  # fmt: skip
    write_gguf(path, gguf_vocabulary(**changes), {})
    return load_tokenizer(path), tokenizer_of(tokens, kept, ["<|end|>"], cut)


@given(text=TEXT)
def test_a_tokenizer_is_that_of_the_library(text, pair):
    ours, theirs = pair
    ids = ours.encode(text, allowed_special="all")
    expected = theirs.encode(text, add_special_tokens=False).ids
    assert ids.tolist() == expected
    assert ours.decode(ids) == theirs.decode(expected, skip_special_tokens=False)


def test_an_exported_tokenizer(pair, tmp_path):
    """What `npgpt export` writes is read the same by the tokenizers library, and by us."""
    ours, theirs = pair
    write_hugging_face(ours, tmp_path)
    again = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in ["".join(PARTS), *PARTS]:
        expected = theirs.encode(text, add_special_tokens=False).ids
        assert again.encode(text, add_special_tokens=False).ids == expected
        assert load_tokenizer(tmp_path).encode(text, allowed_special="all").tolist() == expected


# ---- the real model


def test_smollm2s_tokenizer(smollm2):
    ours = load_tokenizer(smollm2)
    metadata = open_gguf(smollm2).metadata
    tokens, merges = (metadata[f"tokenizer.ggml.{name}"] for name in ("tokens", "merges"))
    theirs = tokenizer_of(tokens, merges, tokens[:17], "smollm")
    assert [*ours.special_tokens] == tokens[:17]

    @given(text=TEXT)
    def check(text):
        ids = ours.encode(text, allowed_special="all")
        expected = theirs.encode(text, add_special_tokens=False).ids
        assert ids.tolist() == expected
        assert ours.decode(ids) == theirs.decode(expected, skip_special_tokens=False)

    check()
    for path in [__file__, np.__file__, os.__file__]:
        text = open(path, encoding="utf-8").read()
        assert ours.encode(text, allowed_special="all").tolist() == theirs.encode(text).ids


PROMPTS = [
    "The capital of France is",
    "def fibonacci(n):\n",
    "Once upon a time",
    "3.14159265",
    "1, 1, 2, 3, 5, 8,",
    "SELECT name FROM",
    "\n\n    ",
    "今天天气",
    "Être ou ne pas être",
    "😀😀 👩\u200d👩\u200d👧",
    "<html>\n  <body>",
    "Q: Who wrote Hamlet?\nA:",
    "The following is a list of fruits:\n-",
    "a",
    *(
        f"{system}<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
        for system, question in [
            ("", "What is 12 + 30?"),
            ("", "Write a haiku about the sea."),
            ("", "¿Cómo estás?"),
            ("<|im_start|>system\nYou are a pirate.<|im_end|>\n", "Who are you?"),
            ("<|im_start|>system\nAnswer in one word.<|im_end|>\n", "Is water wet?"),
            ("<|im_start|>system\n<|im_end|>\n", "Sort 3, 1 and 2."),
        ]
    ),
]
assert len(PROMPTS) == 20


def test_smollm2_is_that_of_transformers(smollm2):
    """All tensors, the logits to rounding, and the tokens of a greedy search."""
    import torch

    ours, theirs = GPT.from_pretrained(smollm2), transformers_of(smollm2)
    tokenizer = load_tokenizer(smollm2)
    assert ours.generation_config == {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    for text in PROMPTS:
        ids = tokenizer.encode(text, allowed_special="all")
        expected = logits_of(theirs, ids[None])
        np.testing.assert_allclose(ours(ids[None])[0].numpy(), expected, atol=2e-3)
        n = 16
        found = generate(ours, ids[None], max_new_tokens=n)[0].tolist()
        with torch.no_grad():
            there = theirs.generate(torch.tensor(ids[None]), max_new_tokens=n, do_sample=False)
        assert found == there[0].tolist()
