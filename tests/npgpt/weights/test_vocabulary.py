"""More tokens: new special tokens of each kind of tokenizer, and new rows of the embeddings."""

import numpy as np
import pytest
from helpers import Quiet, draw_model, same_runs, train_config

from npgpt import GPT, GPTConfig, UserError, load_model, load_tokenizer
from npgpt.models.bert import Bert, BertConfig
from npgpt.models.llama import Llama, LlamaConfig
from npgpt.tokenizers import (
    ByteTokenizer,
    CharTokenizer,
    WordPieceTokenizer,
    save_tokenizer,
    train_bpe,
)
from npgpt.training.interrupt import Interrupted
from npgpt.training.run import resume, start, train
from npgpt.weights.vocabulary import add_special_tokens, resize_token_embeddings

SIZE = dict(vocab_size=20, n_positions=8, n_embd=12, n_layer=1, n_head=2, initializer_range=0.3)
MODELS = {
    "tied": lambda: GPT(GPTConfig(**SIZE)),
    "untied": lambda: Llama(LlamaConfig(**SIZE, tie_word_embeddings=False)),
    "bert": lambda: Bert(BertConfig(**SIZE)),
    "labels": lambda: GPT(GPTConfig(**SIZE, labels=("no", "yes"))),
}
WORDS = {word: n for n, word in enumerate("[UNK] [CLS] [SEP] a b ##c".split())}
TOKENIZERS = {
    "byte": lambda: ByteTokenizer(["<|endoftext|>"]),
    "char": lambda: CharTokenizer(" abcd"),
    "bpe": lambda: train_bpe("a bc bc abc", 260, special_tokens=["<|endoftext|>"]),
    "wordpiece": lambda: WordPieceTokenizer(WORDS),
}


@pytest.mark.parametrize("kind", MODELS)
def test_new_rows_are_the_mean_of_the_old_ones(kind):
    model = MODELS[kind]().eval()
    for parameter in model.parameters():  # biases, too
        parameter.data[...] += np.random.default_rng(1).standard_normal(parameter.shape) / 9
    before = {name: array.copy() for name, array in model.state_dict().items()}
    larger = resize_token_embeddings(model, 23)
    ids = np.random.default_rng(0).integers(0, 20, (2, 8))
    expected, found = model(ids)[0].numpy(), larger(ids)[0].numpy()
    if kind == "labels":
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    else:  # a new logit is the mean of the others, without their biases
        np.testing.assert_allclose(found[..., :20], expected, rtol=1e-5, atol=1e-6)
        bias = before.get("lm_head.bias", np.zeros(20))
        mean = (expected - bias).mean(axis=-1, keepdims=True)
        np.testing.assert_allclose(found[..., 20:], np.tile(mean, 3), rtol=1e-4, atol=1e-5)
    assert larger(ids + 3)[0].shape[-1] == (2 if kind == "labels" else 23)
    assert all(np.array_equal(before[name], a) for name, a in model.state_dict().items())
    assert type(larger) is type(model) and not larger.training
    with pytest.raises(UserError, match="none can be removed"):
        resize_token_embeddings(larger, 20)


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_special_tokens_are_added(kind, tmp_path):
    tokenizer = TOKENIZERS[kind]()
    tokenizer.chat_template = "{{ messages }}"
    n, text = tokenizer.n_vocab, "a b"
    larger = add_special_tokens(tokenizer, ["<|one|>", "<|two|>"])
    assert [larger.special_tokens[name] for name in ("<|one|>", "<|two|>")] == [n, n + 1]
    assert tokenizer.n_vocab == n and larger.n_vocab == n + 2
    assert larger.encode(text).tolist() == tokenizer.encode(text).tolist()
    assert tokenizer.special_tokens.items() <= larger.special_tokens.items()
    save_tokenizer(larger, tmp_path)
    again = load_tokenizer(tmp_path)
    for each in (larger, again):
        assert each.encode("<|two|>", allowed_special="all", add_special_tokens=False) == [n + 1]
        assert each.decode([n + 1]) == "<|two|>" and each.chat_template == "{{ messages }}"
    for names in (["<|one|>"], [""], ["x", "x"]):
        with pytest.raises(UserError, match="cannot be a new special token"):
            add_special_tokens(larger, names)


@pytest.fixture
def asked(tmp_path):
    (tmp_path / "asked.csv").write_text(
        "prompt,response\n" + "".join(f"say {word},{word}\n" for word in "a b c d e f g h".split())
    )
    draw_model(vocab_size=257, n_positions=64).save_pretrained(tmp_path / "base")
    save_tokenizer(ByteTokenizer(["<|endoftext|>"]), tmp_path / "base")
    return str(tmp_path / "asked.csv")


def config_of(asked, tmp_path, name="run", **changes):
    keys = dict(task="instructions", init_from=str(tmp_path / "base"), template="chatml")
    keys |= dict(block_size=64, n_embd=20, sample_tokens=0, batch_size=2, tokenizer="byte")
    keys |= dict(add_tokens=("<|im_start|>", "<|im_end|>"))
    return train_config(asked, tmp_path / name, **keys | changes)


def test_a_run_with_new_tokens(asked, tmp_path):
    """The template's tokens are one id each, their rows are trained, and a resumed run is equal."""
    run = start(config_of(asked, tmp_path))
    ids = run.task.rows[0].ids
    assert np.count_nonzero(ids == 257) == 2 and np.count_nonzero(ids == 258) == 2
    first = run.model.transformer.wte.weight.numpy().copy()
    assert first.shape == (259, 20)
    np.testing.assert_allclose(first[257:], np.tile(first[:257].mean(axis=0), (2, 1)), atol=1e-6)
    with pytest.raises(Interrupted):
        train(run, Quiet(run, interrupt_at=6))
    again = resume(tmp_path / "run", {})
    train(again, Quiet(again))
    whole = start(config_of(asked, tmp_path, "whole"))
    train(whole, Quiet(whole))
    same_runs(tmp_path / "whole", tmp_path / "run")
    model, tokenizer = load_model(tmp_path / "run"), load_tokenizer(tmp_path / "run")
    assert model.config.vocab_size == tokenizer.n_vocab == 259
    assert model.generation_config == {"eos_token_id": 258}
    last = again.model.transformer.wte.weight.numpy()
    assert np.abs(last[257] - last[258]).max() > 1e-4  # the rows are trained


def test_frozen_embeddings_get_no_new_tokens(asked, tmp_path):
    for choice in (dict(lora_r=2), dict(train_layers=1)):
        with pytest.raises(UserError, match="--add_tokens adds rows to the embeddings"):
            config_of(asked, tmp_path, **choice)
