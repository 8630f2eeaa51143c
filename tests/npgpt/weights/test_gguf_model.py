"""The model in a GGUF file: its weights, its options of generation, and what does not fit."""

import json

import numpy as np
import pytest
from helpers import gguf_llama, write_gguf

from npgpt import GPT, UserError, generate, load_tokenizer


@pytest.fixture
def path(tmp_path):
    return tmp_path / "tiny.gguf"


@pytest.mark.parametrize("kinds", [{}, {"": "F16"}, {"": "BF16"}, {"": "Q8_0", "norm": "F32"}])
def test_a_model_is_that_of_its_folder(kinds, path, tmp_path):
    """The same weights, from a folder as Hugging Face has it."""
    kinds = {"norm": "F32"} | kinds if kinds else {}
    metadata, tensors = gguf_llama(kinds)
    write_gguf(path, metadata, tensors)
    model = GPT.from_pretrained(path)
    model.save_pretrained(tmp_path / "folder")
    again = GPT.from_pretrained(tmp_path / "folder")
    assert again.config == model.config and model.config.model_type == "llama"
    assert model.generation_config == {"eos_token_id": 0}
    ids = np.arange(20)[None] * 7 % 259
    assert np.array_equal(model(ids)[0].numpy(), again(ids)[0].numpy())
    double = GPT.from_pretrained(path, dtype=np.float64)
    np.testing.assert_allclose(double(ids)[0].numpy(), model(ids)[0].numpy(), atol=1e-4)
    tokenizer = load_tokenizer(path)
    out = generate(model, [tokenizer.encode("the")], max_new_tokens=3)
    assert out.shape[1] <= 4


def write_parts(folder, split=(0, 9), count=2):
    """Write a model in two files; return their paths."""
    metadata, tensors = gguf_llama()
    names = list(tensors)
    paths = [folder / f"a-{i:05}-of-00002.gguf" for i in (1, 2)]
    of_part = {"split.count": count, "split.tensors.count": len(names)}
    write_gguf(paths[0], metadata | of_part, {name: tensors[name] for name in names[: split[1]]})
    write_gguf(paths[1], of_part, {name: tensors[name] for name in names[split[1] - split[0] :]})
    return paths


def test_a_model_in_several_files(path, tmp_path):
    write_gguf(path, *gguf_llama())
    ids = np.arange(20)[None]
    expected = GPT.from_pretrained(path)(ids)[0].numpy()
    for part in write_parts(tmp_path):
        assert np.array_equal(GPT.from_pretrained(part)(ids)[0].numpy(), expected)
        assert load_tokenizer(part).n_vocab == 259
    one, two = write_parts(tmp_path, split=(1, 9))
    with pytest.raises(UserError, match="00002-of-00002.gguf has the tensor .* as a file before"):
        GPT.from_pretrained(one)
    two.unlink()
    with pytest.raises(UserError, match="a-00002-of-00002.gguf is not beside it"):
        GPT.from_pretrained(one)
    one.rename(path)
    with pytest.raises(UserError, match="tiny.gguf is one of 2 files of a model; expected a name"):
        GPT.from_pretrained(path)
    one, two = write_parts(tmp_path, count=2**31)
    with pytest.raises(UserError, match="one of 2147483648 files"):
        GPT.from_pretrained(one)


def test_ids_that_end_a_text(path):
    metadata, tensors = gguf_llama()
    ids = {"bos": 5, "eos": 0, "eot": 7, "padding": 3}
    metadata |= {f"tokenizer.ggml.{name}_token_id": i for name, i in ids.items()}
    write_gguf(path, metadata, tensors)
    expected = {"bos_token_id": 5, "pad_token_id": 3, "eos_token_id": [0, 7]}
    assert GPT.from_pretrained(path).generation_config == expected


def without(key):
    def change(metadata, tensors):
        del metadata[key]

    return change


def with_metadata(**changes):
    def change(metadata, tensors):
        metadata |= {key.replace("__", "."): value for key, value in changes.items()}

    return change


def with_tensor(name, value):
    def change(metadata, tensors):
        tensors[name] = value

    return change


def matrix(*shape):
    return "F32", np.zeros(shape, np.float32)


WRONG = [
    (with_metadata(general__architecture="gemma"), "its architecture is 'gemma'; known here are"),
    (without("general.architecture"), "its architecture is None"),
    (with_metadata(llama__expert_count=8), "its llama.expert_count is 8; only 0 is known here"),
    (with_metadata(llama__attention__sliding_window=8), "attention.sliding_window is 8"),
    (with_metadata(llama__rope__scaling__attn_factor=[1, 2]), "attn_factor is array"),
    (with_metadata(llama__rope__scaling__type="yarn"), "factor"),
    (with_metadata(llama__block_count=[2, 2]), "llama.block_count must be a whole number"),
    (with_metadata(llama__block_count=0), "llama.block_count is 0; it must be at least 1"),
    (with_metadata(llama__block_count=2**19), "too few for the 524288 layers"),
    (with_metadata(llama__block_count=120), "has 20 tensors, too few for the 120 layers .* 1,080"),
    (with_metadata(llama__block_count=3), "has no blk.2.|lacks|missing"),
    (without("llama.embedding_length"), "its metadata lack llama.embedding_length"),
    (with_metadata(llama__embedding_length=96), "does not fit its configuration"),
    (with_metadata(llama__attention__value_length=8), "value_length is 8, and a head has 16"),
    (with_metadata(llama__rope__dimension_count=4), "dimension_count is 4, and a head has 16"),
    (with_metadata(llama__rope__freq_base=float("nan")), "freq_base is nan"),
    (with_metadata(llama__rope__scaling__type="magic", llama__rope__scaling__factor=2.0), "magic"),
    (with_metadata(llama__attention__head_count=3), "a head has 21 channels"),
    (with_tensor("token_embd.weight", matrix(5)), "it lacks the tensor token_embd.weight"),
    (with_tensor("token_embd.weight", matrix(300, 64)), None),  # more rows than tokens
    (with_tensor("blk.0.attn_q.weight", matrix(63, 64)), "no even number of rows"),
    (with_tensor("blk.0.attn_q.weight", matrix(32, 64)), "does not fit its configuration"),
    (with_tensor("blk.0.unknown.weight", matrix(3, 64)), "blk.0.unknown.weight"),
    (with_tensor("rope_freqs.weight", matrix(8)), "are not those of Llama 3"),
]


@pytest.mark.parametrize(("change", "message"), WRONG)
def test_wrong_models(change, message, path):
    metadata, tensors = gguf_llama()
    change(metadata, tensors)
    write_gguf(path, metadata, tensors)
    if message is None:
        assert GPT.from_pretrained(path).config.vocab_size == 300
        return
    with pytest.raises(UserError, match=message) as raised:
        GPT.from_pretrained(path)
    assert str(raised.value).startswith(str(path)) and "\n" not in str(raised.value)


def test_a_configuration_of_another_kind(path, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    write_gguf(path, *gguf_llama())
    assert GPT.from_pretrained(path).config.model_type == "llama"  # the file's own
