"""Generation: what the cache keeps, what each option means, and that batches change nothing."""

import io
import itertools
import json
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT, TINY
from hypothesis import given
from hypothesis import strategies as st

import autograd
from autograd import no_grad
from npgpt import GPT, GPTConfig, TextStreamer, UserError
from npgpt.cli import main
from npgpt.commands import generate as command
from npgpt.evaluation.loss import whole_loss
from npgpt.generation.options import Options
from npgpt.generation.processors import draw, log_softmax, process
from npgpt.generation.quantize import Int8GPT, quantize
from npgpt.generation.reader import Reader, window_start
from npgpt.models.cache import KVCache
from npgpt.tokenizers import BPETokenizer, ByteTokenizer, GPT1Tokenizer, save_tokenizer

FAMILIES = {
    "gpt1": dict(norm_position="post"),
    "gpt2": {},
    "gpt3": dict(window_size=3),
    "sinusoidal": dict(position_embedding="sinusoidal", window_size=1),
}


def make(family="gpt2", seed=0, dtype=np.float64, **changes):
    """Return a model whose logits are far apart."""
    model = GPT(GPTConfig(**(TINY | FAMILIES[family] | changes)), seed, dtype).eval()
    random = np.random.default_rng(seed)
    for parameter in model.parameters():
        noise = 0.5 * random.standard_normal(parameter.shape)
        parameter.data = (parameter.data + noise).astype(dtype)
    return model


MODELS = {family: make(family) for family in FAMILIES}
families = st.sampled_from(list(FAMILIES))


def tokens(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, TINY["vocab_size"], shape)


# ---- the cache


@given(family=families, seed=st.integers(0, 99), data=st.data())
def test_reading_in_parts_is_reading_at_once(family, seed, data):
    model = MODELS[family]
    ids = tokens(2, 8, seed=seed)
    shown = np.ones((2, 8), bool)
    shown[1, : data.draw(st.integers(0, 3), "padding")] = False
    positions = np.maximum(shown.cumsum(1) - 1, 0)
    cuts = sorted(data.draw(st.sets(st.integers(1, 7)), "cuts"))
    cache, parts = KVCache(8), []
    with no_grad():
        for start, stop in zip([0, *cuts], [*cuts, 8], strict=True):
            part = slice(start, stop)
            options = dict(attention_mask=shown[:, :stop], position_ids=positions[:, part])
            parts.append(model(ids[:, part], **options, cache=cache)[0].numpy())
        whole = model(ids, attention_mask=shown, position_ids=positions)[0].numpy()
    np.testing.assert_allclose(np.concatenate(parts, 1)[shown], whole[shown], rtol=0, atol=1e-12)
    assert cache.length == 8


@given(family=families, rows=st.lists(st.integers(0, 2), min_size=1, max_size=5))
def test_a_reordered_cache_goes_on_from_the_rows(family, rows):
    model, ids, rows = MODELS[family], tokens(3, 5), np.array(rows)
    cache = KVCache(8)
    with no_grad():
        model(ids, cache=cache)
        cache.reorder(rows)
        last = tokens(len(rows), 2, seed=1)
        logits = model(last, cache=cache)[0].numpy()
        expected = model(np.concatenate([ids[rows], last], 1))[0].numpy()[:, 5:]
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-12)


def test_a_cache_refuses_what_it_cannot_hold():
    model, cache = MODELS["gpt2"], KVCache(4)
    with pytest.raises(ValueError, match="no tape"):
        model(tokens(1, 2), cache=cache)
    with no_grad():
        model(tokens(2, 3), cache=cache)
        with pytest.raises(ValueError, match="of 2 sequences, not 1"):
            model(tokens(1, 1), cache=cache)
        with pytest.raises(ValueError, match="5 tokens do not fit the cache of 4"):
            model(tokens(2, 2), cache=cache)
        with pytest.raises(ValueError, match="9 tokens do not fit the context of 8"):
            model(tokens(2, 6), cache=cache)
        with pytest.raises(ValueError, match="after 3 tokens in the cache"):
            model(tokens(2, 1), attention_mask=np.ones((2, 1)), cache=cache)
        assert cache.length == 3


# ---- what generation promises, for every architecture

prompts = st.lists(
    st.lists(st.integers(0, TINY["vocab_size"] - 1), min_size=1, max_size=11),
    min_size=1,
    max_size=4,
)
choices = st.fixed_dictionaries(
    {"max_new_tokens": st.integers(0, 12), "seed": st.integers(0, 9)},
    optional={
        "do_sample": st.booleans(),
        "temperature": st.sampled_from([0.5, 2.0]),
        "top_k": st.sampled_from([0, 3]),
        "top_p": st.just(0.8),
        "min_p": st.just(0.1),
        "typical_p": st.just(0.7),
        "repetition_penalty": st.sampled_from([0.8, 1.5]),
        "no_repeat_ngram_size": st.sampled_from([2, 3]),
        "bad_words_ids": st.just([[3], [1, 2]]),
        "eos_token_id": st.sampled_from([5, [5, 6]]),
        "min_new_tokens": st.just(0),
    },
)


@given(
    family=families,
    prompts=prompts,
    options=choices,
    n=st.integers(1, 3),
    beams_sample=st.booleans(),
)
def test_neither_the_batch_nor_the_cache_changes_a_text(family, prompts, options, n, beams_sample):
    model = MODELS[family]
    if options.get("do_sample"):
        options["num_return_sequences"] = n
    elif n > 1:
        options["do_sample"] = beams_sample
        options.update(num_beams=n, num_return_sequences=n - 1)
    n = options.get("num_return_sequences", 1)
    batch = model.generate(prompts, pad_token_id=9, output_logprobs=True, **options)
    uncached = model.generate(
        prompts, pad_token_id=9, output_logprobs=True, use_cache=False, **options
    )
    assert np.array_equal(batch.sequences, uncached.sequences)
    assert batch.finish_reasons == uncached.finish_reasons
    np.testing.assert_allclose(batch.logprobs, uncached.logprobs, rtol=1e-10, atol=1e-10)
    T = max(map(len, prompts))
    assert len(batch.sequences) == n * len(prompts)
    for i, prompt in enumerate(prompts):
        single = model.generate([prompt], pad_token_id=9, output_logprobs=True, **options)
        rows = slice(i * n, i * n + n)
        length = single.sequences.shape[1] - len(prompt)
        begin = T - len(prompt)
        assert np.all(batch.sequences[rows, :begin] == 9)
        assert np.array_equal(batch.sequences[rows, begin : T + length], single.sequences)
        assert np.all(batch.sequences[rows, T + length :] == 9)
        assert batch.finish_reasons[rows] == single.finish_reasons


@given(family=families, seed=st.integers(0, 99), length=st.integers(1, 12))
def test_greedy_takes_the_most_probable(family, seed, length):
    model, ids = MODELS[family], tokens(2, length, seed=seed)
    out = model.generate(ids, max_new_tokens=9)
    assert np.array_equal(out[:, :length], ids)
    for i in range(length, length + 9):
        start = int(window_start(np.array(length), np.array(i), 8))
        assert i - 8 <= start <= max(0, i - 7)
        logits = model(out[:, start:i])[0].numpy()[:, -1]
        assert np.array_equal(out[:, i], logits.argmax(-1))


@given(n_positions=st.integers(1, 40), prompt=st.integers(1, 60))
def test_the_window_keeps_most_of_the_context(n_positions, prompt):
    lengths = np.arange(prompt, prompt + 100)
    start = window_start(np.array(prompt), lengths, n_positions)
    seen = lengths - start
    assert np.all(start[lengths <= n_positions] == 0)
    assert np.all(seen <= n_positions) and np.all(seen >= np.minimum(lengths, 0.75 * n_positions))
    assert seen[0] == min(prompt, n_positions)


@given(
    family=families,
    prompt=st.text("ab 天气😀é", min_size=1, max_size=4),
    seed=st.integers(0, 99),
    n=st.integers(0, 12),
)
def test_a_stream_is_what_decode_returns(family, prompt, seed, n):
    tokenizer = ByteTokenizer()
    model = BYTES[family]
    pieces = []
    streamer = TextStreamer(tokenizer)
    streamer.on_finalized_text = lambda text, stream_end: pieces.append((text, stream_end))
    ids = tokenizer.encode(prompt)
    options = dict(max_new_tokens=n, do_sample=True, seed=seed)
    out = model.generate(ids, streamer=streamer, **options)
    assert "".join(text for text, _ in pieces) == tokenizer.decode(out[0])
    assert [last for _, last in pieces] == [False] * (len(pieces) - 1) + [True]
    assert all(text for text, last in pieces if not last)
    assert np.array_equal(model.generate(ids, **options), out)


BYTES = {family: make(family, vocab_size=256) for family in FAMILIES}


LETTERS = "abc天"
STREAMED = {
    "bytes": ByteTokenizer(),
    "special": BPETokenizer({bytes([i]): i for i in range(256)}, special_tokens={"<|end|>": 256}),
    "gpt1": GPT1Tokenizer(
        {x: i for i, x in enumerate(["<unk>", *LETTERS, *(c + "</w>" for c in LETTERS)])}, []
    ),
}


@given(name=st.sampled_from(list(STREAMED)), skip=st.booleans(), data=st.data())
def test_a_streamer_shows_what_decode_returns(name, skip, data):
    """However the tokens come, and whatever they are."""
    tokenizer, pieces = STREAMED[name], []
    token = st.integers(0, tokenizer.n_vocab - 1)
    if name != "gpt1":  # real characters, too, and their parts
        token |= st.sampled_from("天😀é".encode())
    puts = data.draw(st.lists(st.lists(token, min_size=1, max_size=5), max_size=8))
    streamer = TextStreamer(tokenizer, skip_special_tokens=skip)
    streamer.on_finalized_text = lambda text, stream_end: pieces.append(text)
    for _ in range(2):  # it begins anew after its end
        pieces.clear()
        for ids in puts:
            streamer.put(np.array(ids))
        streamer.end()
        expected = tokenizer.decode([i for ids in puts for i in ids], skip_special_tokens=skip)
        assert "".join(pieces) == expected


# ---- sampling


def test_seeds():
    model, ids = MODELS["gpt2"], tokens(1, 4)
    options = dict(max_new_tokens=30, do_sample=True, num_return_sequences=3)
    first = model.generate(ids, seed=1, **options)
    assert first.shape == (3, 34) and not np.array_equal(first[0], first[1])
    assert np.array_equal(model.generate(ids, seed=1, **options), first)
    assert not np.array_equal(model.generate(ids, seed=2, **options), first)
    assert not np.array_equal(model.generate(ids, **options), model.generate(ids, **options))
    greedy = model.generate(ids, max_new_tokens=30)
    sampled = partial(model.generate, ids, max_new_tokens=30, do_sample=True)
    assert np.array_equal(sampled(temperature=0), greedy)
    assert np.array_equal(sampled(top_k=1), greedy)
    assert np.array_equal(sampled(temperature=1e-3), greedy)
    assert model.generate(ids, max_new_tokens=0).tolist() == ids.tolist()


def test_samples_follow_the_distribution():
    p, n = np.array([0.1, 0.2, 0.3, 0.4]), 40_000
    uniform = np.random.default_rng(0).random(n)
    for options, expected in [
        (dict(top_k=0), p),
        (dict(top_k=2), [0, 0, 3 / 7, 4 / 7]),
        (dict(top_k=9), p),
        (dict(top_p=0.65), [0, 0, 3 / 7, 4 / 7]),
        (dict(temperature=0.5), p**2 / (p**2).sum()),
        (dict(min_p=0.6), [0, 0, 3 / 7, 4 / 7]),
    ]:
        ids = np.zeros((n, 0), int)
        logits = np.repeat(np.log(p)[None], n, 0)
        drawn = draw(process(Options(do_sample=True, **options), ids, logits, 0), uniform)
        error = np.abs(np.bincount(drawn, minlength=4) / n - expected)
        assert error.max() < 5 * np.sqrt(0.25 / n)  # five deviations of a share, at most
    assert (
        draw(np.array([[-np.inf, 0.0, -np.inf]] * 3), np.array([0, 0.5, 0.999])).tolist() == [1] * 3
    )


def test_beams_are_drawn_without_replacement():
    """Two beams draw four tokens of five, and keep the two most probable of the four."""
    model, n = make(vocab_size=5), 1000
    p = np.exp(log_softmax(model([[1]])[0].numpy()[0, -1:]))[0]
    expected = dict.fromkeys(itertools.combinations(range(5), 2), 0.0)
    for drawn in itertools.permutations(range(5), 4):
        best = sorted(sorted(drawn, key=lambda token: p[token])[2:])
        left = 1 - np.cumsum([0, *p[list(drawn[:3])]])  # before each drawing
        expected[tuple(best)] += np.prod(p[list(drawn)] / left)
    options = dict(max_new_tokens=1, num_beams=2, num_return_sequences=2, do_sample=True)
    pairs = [model.generate([1], seed=seed, **options)[:, 1].tolist() for seed in range(n)]
    counts = Counter(tuple(sorted(pair)) for pair in pairs)
    for pair, share in expected.items():
        assert abs(counts[pair] / n - share) < 5 * np.sqrt(0.25 / n)
    assert sum(share > 0.05 for share in expected.values()) == 3  # as many as can be the best two
    assert all(p[best] > p[other] for best, other in pairs)


def test_log_probabilities_are_the_models():
    """Also where options change what is chosen, and where the window moves."""
    for options in (
        dict(do_sample=True, top_k=3, temperature=2.0, repetition_penalty=1.5, seed=3),
        dict(num_beams=3),
        dict(num_beams=3, do_sample=True, temperature=2.0, seed=3),
    ):
        model, prompt = MODELS["gpt3"], tokens(2, 3)
        result = model.generate(prompt, max_new_tokens=5, output_logprobs=True, **options)
        logits = model(result.sequences[:, :-1])[0].numpy()[:, 2:]
        expected = np.take_along_axis(log_softmax(logits), result.sequences[:, 3:, None], -1)[
            ..., 0
        ]
        np.testing.assert_allclose(result.logprobs, expected, rtol=0, atol=1e-12)


# ---- where a text ends


def test_ends():
    model, prompts = MODELS["gpt2"], [[1, 2, 3], [4]]
    free = model.generate(prompts, max_new_tokens=8)[:, 3:]
    eos = int(free[0, 4])
    result = model.generate(prompts, max_new_tokens=8, eos_token_id=eos, output_logprobs=True)
    for row, expected, reason in zip(
        result.sequences[:, 3:], free, result.finish_reasons, strict=True
    ):
        hits = np.flatnonzero(expected == eos)
        length = hits[0] + 1 if hits.size else 8
        assert np.array_equal(row[:length], expected[:length]) and np.all(row[length:] == eos)
        assert reason == ("eos" if hits.size else "length")
    longer = model.generate(prompts, max_new_tokens=8, eos_token_id=eos, min_new_tokens=7)
    assert not np.any(longer[:, 3:10] == eos)
    out = model.generate(prompts, max_length=6, pad_token_id=7)
    assert out.shape == (2, 8) and np.all(out[0, 6:] == 7) and np.all(out[1, :2] == 7)
    assert np.array_equal(out[1, 2:], [4, *free[1, :5]])
    assert model.generate(prompts[0]).shape == (1, 8)  # as long as the context
    assert model.generate([1] * 8).shape == (1, 28)  # which is full
    assert make(n_positions=99).generate(prompts[0]).shape == (1, 23)


def test_stop_strings():
    """They may begin in the prompt, and end inside a token; a prompt that holds one goes on."""
    tokenizer, model = ByteTokenizer(), BYTES["gpt2"]
    prompt = tokenizer.encode("ab")
    free = model.generate(prompt, max_new_tokens=12, do_sample=True, seed=5)
    text = "".join(map(chr, free[0]))  # each byte a character, to be sure
    tokenizer = ByteTokenizer()
    tokenizer.tokens = {i: chr(i).encode() for i in range(256)}
    options = dict(max_new_tokens=12, do_sample=True, seed=5, tokenizer=tokenizer)
    for stop in (text[4:6], text[1:3], ["never seen", text[6:7]]):
        stops = [stop] if isinstance(stop, str) else stop
        result = model.generate(prompt, stop_strings=stop, output_logprobs=True, **options)
        out = "".join(map(chr, result.sequences[0]))
        found = min(text.find(s, max(0, 3 - len(s))) + len(s) for s in stops if s in text)
        assert out == text[:found] and result.finish_reasons == ["stop_string"]
    assert model.generate(prompt, stop_strings="ab", **options).shape == free.shape
    with pytest.raises(UserError, match="give tokenizer="):
        model.generate(prompt, stop_strings="x")


def test_a_stop_string_of_several_bytes():
    tokenizer, text = ByteTokenizer(), "x天气"
    ids = tokenizer.encode(text)
    from npgpt.generation.search import completes

    done = [completes(ids[:n], ["天"], tokenizer) for n in range(1, len(ids) + 1)]
    assert done == [False, False, False, True, False, False, False]


def test_what_is_forbidden_does_not_come():
    model, ids = MODELS["gpt2"], tokens(3, 4)
    options = dict(max_new_tokens=30, do_sample=True, top_k=0, seed=0)
    out = model.generate(ids, bad_words_ids=[[3], [1, 2]], **options)
    pairs = [
        tuple(pair) for row in out for pair in np.lib.stride_tricks.sliding_window_view(row, 2)[3:]
    ]
    assert 3 not in out[:, 4:] and (1, 2) not in pairs
    for row in model.generate(ids, no_repeat_ngram_size=2, **options):
        pairs = [tuple(pair) for pair in np.lib.stride_tricks.sliding_window_view(row, 2)]
        assert len(set(pairs)) >= len(pairs) - 3  # those of the prompt may
    with pytest.raises(UserError, match="no token may follow"):
        model.generate(ids, bad_words_ids=[[i] for i in range(11)])
    with pytest.raises(UserError, match="no token may follow"):
        model.generate(tokens(1, 1), max_new_tokens=20, no_repeat_ngram_size=1)


# ---- beams


@given(family=families, seed=st.integers(0, 99), n=st.integers(1, 3))
def test_enough_beams_find_the_best_text(family, seed, n):
    """With a beam for every beginning, beam search is exhaustive."""
    model = make(family, seed, vocab_size=3)
    prompt = np.random.default_rng(seed).integers(0, 3, (1, 2))
    found = model.generate(
        prompt, max_new_tokens=n, num_beams=27, num_return_sequences=min(3**n, 4)
    )
    every = np.stack(np.meshgrid(*[range(3)] * n, indexing="ij"), -1).reshape(-1, n)  # (3^n, n)
    ids = np.concatenate([np.repeat(prompt, len(every), 0), every], 1)
    logits = log_softmax(model(ids[:, :-1])[0].numpy()[:, 1:])
    totals = np.take_along_axis(logits, every[..., None], -1).sum((1, 2))
    assert np.array_equal(found[:, 2:], every[np.argsort(-totals)][: len(found)])


def test_more_beams_than_continuations():
    model = make(vocab_size=3)
    with pytest.raises(UserError, match="only 3 continuations are possible"):
        model.generate([[1]], max_new_tokens=1, num_beams=5, num_return_sequences=4)


# ---- prompts


def test_prompts_come_in_many_forms():
    model = MODELS["gpt2"]
    one = model.generate(np.array([1, 2, 3]), max_new_tokens=4)
    for form in (
        [1, 2, 3],
        [[1, 2, 3]],
        (1, 2, 3),
        np.array([[1, 2, 3]], np.uint16),
        [np.array([1, 2, 3])],
    ):
        assert np.array_equal(model.generate(form, max_new_tokens=4), one)
    padded, mask = np.array([[0, 1, 2, 3], [1, 2, 3, 0]]), np.array([[0, 1, 1, 1], [1, 1, 1, 0]])
    out = model.generate(padded, attention_mask=mask, max_new_tokens=4)
    assert np.array_equal(out[:, :4], padded)  # as it was given
    assert np.array_equal(out[:, 4:], [one[0, 3:], one[0, 3:]])
    out = model.generate([[0, 1, 2, 3], [1]], attention_mask=[[0, 1, 1, 1], [1]], max_new_tokens=4)
    assert np.array_equal(out[0], [0, *one[0]]) and np.array_equal(out[1, :4], [0, 0, 0, 1])


def test_generation_leaves_the_model_as_it_was():
    """However it ends, and whatever another thread sees meanwhile."""
    model = make().train()
    model.transformer.h[0].eval()  # which is frozen, say

    def modes():
        return [module.training for _, module in model.named_modules()]

    class Stops:
        def put(self, value):
            with ThreadPoolExecutor(1) as other:
                assert other.submit(modes).result() == before
            assert not any(modes())
            raise KeyboardInterrupt

        def end(self):
            pass

    before = modes()
    assert True in before and False in before
    model.generate(tokens(1, 3), max_new_tokens=2)
    whole_loss(model, tokens(9))
    assert modes() == before and autograd.is_grad_enabled()
    with pytest.raises(KeyboardInterrupt):
        model.generate(tokens(1, 3), max_new_tokens=2, streamer=Stops())
    with pytest.raises(ValueError, match="99"):
        whole_loss(model, np.array([1, 2, 99]))
    assert modes() == before and autograd.is_grad_enabled()


@pytest.mark.parametrize("kind", ["float64", "float32", "int8"])
def test_threads_share_a_model(kind):
    """Each text, and each loss, is as if its thread were alone."""
    model = make(dtype=np.float64 if kind == "float64" else np.float32)
    if kind == "int8":
        model = quantize(model)
    calls = [
        partial(model.generate, tokens(2, 3, seed=seed), max_new_tokens=12, seed=seed, **options)
        for seed in range(4)
        for options in ({}, dict(do_sample=True), dict(num_beams=3), dict(use_cache=False))
    ]
    calls += [partial(whole_loss, model, tokens(40, seed=seed)) for seed in range(4)]
    expected = [call() for call in calls]
    training = not isinstance(model, Int8GPT)
    model.train(training)
    try:
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda call: call(), calls))
            assert model.training is training
    finally:
        model.eval()
    for a, b in zip(found, expected, strict=True):
        assert np.array_equal(a, b)


def test_sampling_options_without_sampling_are_noted(capsys):
    model, ids = MODELS["gpt2"], tokens(1, 3)
    model.generate(ids, max_new_tokens=2, top_p=0.9, top_k=None)
    assert capsys.readouterr().err == "note: top_p has no effect without do_sample=True\n"
    model.generate(ids, max_new_tokens=2, top_p=0.9, do_sample=True, temperature=0.0)
    assert capsys.readouterr().err == "note: top_p has no effect at temperature 0\n"
    model.generate(ids, max_new_tokens=2, top_p=0.9, do_sample=True)
    model.generate(ids, max_new_tokens=2, top_p=0.9, do_sample=True, num_beams=2)
    model.generate(ids, max_new_tokens=2, temperature=0)
    model.generate(ids, max_new_tokens=2)
    assert capsys.readouterr().err == ""


def test_a_window_is_announced_once(capsys):
    model = MODELS["gpt2"]
    assert model.generate(tokens(1, 20), max_new_tokens=9).shape == (1, 29)
    err = capsys.readouterr().err
    assert "20 tokens; the model sees the last 8" in err and err.count("note:") == 1
    model.generate(tokens(2, 5), max_new_tokens=5)
    assert "longer than 8 tokens, the model sees the last 7 to 8 of them" in capsys.readouterr().err
    model.generate(tokens(1, 5), max_new_tokens=4)  # whose last token is not read
    assert capsys.readouterr().err == ""


def test_defaults_of_a_folder(tmp_path):
    model = make()
    eos = int(model.generate([[1, 2]], max_new_tokens=5)[0, 4])
    model.generation_config = {
        "eos_token_id": eos,
        "max_new_tokens": 5,
        "some_key": 1,
        "top_k": None,
    }
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "generation_config.json").read_text())["eos_token_id"] == eos
    loaded = GPT.from_pretrained(tmp_path, dtype=np.float64)
    assert np.array_equal(loaded.generate([[1, 2]]), model.generate([[1, 2]]))
    assert loaded.generate([[1, 2]]).shape[1] <= 5
    assert loaded.generate([[1, 2]], eos_token_id=[]).shape == (1, 7)
    assert loaded.generate([[1, 2]], eos_token_id=[], max_length=4).shape == (1, 4)
    GPT.from_pretrained(tmp_path).save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "generation_config.json").is_file()


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"eos_token_id": "x"}, "eos_token_id has 'x'"),
        ({"suppress_tokens": [[1]]}, r"suppress_tokens has \[1\]"),
        ({"logits_processor": "x"}, "logits_processor is 'x'"),
        ({"temperature": "hot"}, "temperature must be a number, and is 'hot'"),
        (
            {"num_return_sequences": 3},
            "num_return_sequences is ., and greedy decoding finds only one text",
        ),
    ],
)
def test_wrong_defaults_of_a_model(own, message):
    model = make()
    model.generation_config = own
    with pytest.raises(UserError, match=rf"\(generation_config.json, or config.json\), {message}"):
        model.generate([1, 2])
    with pytest.raises(UserError, match="^top_k is -1"):
        model.generate([1, 2], top_k=-1)


def test_defaults_without_effect_are_noted_once(capsys):
    model = make()
    free = model.generate([1, 2], max_new_tokens=4)
    model.generation_config = {
        "eos_token_id": [50256, -1], "pad_token_id": 50256, "suppress_tokens": [11, 12],
        "bad_words_ids": [[3, 99], [99]], "num_beam_groups": 1, "bos_token_id": 50256,
        "sequence_bias": [[[1], 2.0]], "sweet\x1b[31m": "sour", "top_k": None, "strange": None,
        "transformers_version": "5.24.0", "use_cache": True,
    }  # fmt: skip
    for _ in range(2):
        assert np.array_equal(model.generate([1, 2], max_new_tokens=4), free)
    assert capsys.readouterr().err == (
        "note: parts of the model's generation_config.json have no effect: npgpt has no option "
        "'sequence_bias', 'sweet\\x1b[31m'; eos_token_id 50256, pad_token_id 50256, "
        "suppress_tokens 11, bad_words_ids 99: outside of the vocabulary of 11 tokens\n"
    )


def test_none_is_no_value(capsys):
    model, ids = make(n_positions=99), [1, 2, 3]
    eos = int(model.generate(ids, max_new_tokens=9)[0, 3])
    model.generation_config = dict(eos_token_id=eos, max_new_tokens=9, do_sample=True, top_k=1)
    assert model.generate(ids).shape == (1, 4)
    assert model.generate(ids, eos_token_id=None).shape == (1, 12)
    assert model.generate(ids, eos_token_id=None, max_new_tokens=None).shape == (1, 23)
    off = dict.fromkeys(f.name for f in fields(Options))
    greedy = model.generate(ids, **(off | dict(max_new_tokens=5)))
    assert np.array_equal(greedy, make(n_positions=99).generate(ids, max_new_tokens=5))
    assert Options(top_k=None).top_k == 0 and Options().top_k == 50


def test_tokens_come_in_many_forms():
    for name in ("eos_token_id", "suppress_tokens", "forced_eos_token_id", "begin_suppress_tokens"):
        forms = (8, [8], (8,), {8}, np.array(8), np.array([8]), [np.int64(8)])
        found = [MODELS["gpt2"].generate([1, 2], **{name: form}) for form in forms]
        assert all(np.array_equal(one, found[0]) for one in found)
    words = [[[8], [3, 4]], ([8], (3, 4)), [np.array([8]), [3, 4]]]
    found = [MODELS["gpt2"].generate([1, 2], bad_words_ids=form) for form in words]
    found.append(MODELS["gpt2"].generate([1, 2], bad_words_ids=np.array([[8], [8]])))
    assert all(np.array_equal(one, found[0]) for one in found)


def test_functions_of_a_user():
    """Each is called once a step, with the rows as they are in the result."""
    model, seen = MODELS["gpt2"], []

    def only(input_ids, scores):
        seen.append(input_ids)
        scores[:] = -np.inf
        scores[[0, 1], [4, 5]] = 0
        return scores

    def all_end(input_ids, scores, **kwargs):
        return input_ids.shape[1] > 5

    options = dict(max_new_tokens=5, output_logprobs=True, logits_processor=only)
    found = model.generate([[1, 2, 3], [6]], stopping_criteria=all_end, **options)
    assert found.sequences.tolist() == [[1, 2, 3, 4, 4, 4], [0, 0, 6, 5, 5, 5]]
    assert found.finish_reasons == ["stopping_criteria"] * 2
    assert [ids.tolist() for ids in seen] == [found.sequences[:, :n].tolist() for n in (3, 4, 5)]
    found = model.generate([[1, 2, 3], [6]], max_time=0, **options)
    assert found.finish_reasons == ["max_time"] * 2 and found.sequences.shape == (2, 4)
    for wrong in (lambda ids, scores: scores[0], lambda ids, scores: None):
        with pytest.raises(UserError, match="logits_processor returned an array of shape"):
            model.generate([1], logits_processor=[wrong])
        with pytest.raises(UserError, match="stopping_criteria returned"):
            model.generate([1], stopping_criteria=[lambda ids, scores: ids[:, -1]])


def test_of_two_default_lengths_one_counts():
    model = make()
    model.generation_config = {"max_length": 4, "max_new_tokens": 3}
    assert model.generate([1, 2]).shape == (1, 5)
    assert model.generate([1, 2], max_length=6).shape == (1, 6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input_ids": np.zeros((1, 0), int)}, "prompt is empty"),
        ({"input_ids": []}, "prompt is empty"),
        ({"input_ids": [[1], []]}, "prompt is empty"),
        ({"input_ids": [[11]]}, "input_ids holds 11, and the vocabulary has 11 tokens"),
        ({"input_ids": [[-1, 2]]}, "input_ids holds -1, and the vocabulary has 11 tokens"),
        ({"input_ids": [[0.5]]}, "expected integers"),
        ({"input_ids": [[True]]}, "input_ids has type bool"),
        ({"input_ids": np.ones((1, 1, 1), int)}, "must have shape"),
        ({"attention_mask": np.ones((1, 3))}, "must have the shape of input_ids"),
        ({"attention_mask": np.zeros((1, 1))}, "prompt is empty"),
        ({"top_k": -1}, "top_k is -1"),
        ({"top_k": 1.5}, "top_k must be a whole number, and is 1.5"),
        ({"top_p": 1.5}, "top_p is 1.5; it must be a number from 0 to 1"),
        ({"top_p": 0}, "top_p is 0.0; it must be above 0"),
        ({"min_p": -0.1}, "min_p is -0.1"),
        ({"temperature": -0.5}, "temperature is -0.5"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": "hot"}, "temperature must be a number, and is 'hot'"),
        ({"repetition_penalty": 0}, "repetition_penalty is 0"),
        ({"max_new_tokens": -1}, "max_new_tokens is -1"),
        ({"max_new_tokens": True}, "max_new_tokens must be a whole number or absent, and is True"),
        ({"max_length": 1}, "max_length is 1, and a prompt alone has 1"),
        ({"max_length": 5, "max_new_tokens": 5}, "give only one of them"),
        (
            {"min_new_tokens": 5, "max_new_tokens": 4},
            "min_new_tokens is 5, and max_new_tokens is 4",
        ),
        ({"seed": -1}, "seed is -1"),
        ({"num_return_sequences": 0}, "num_return_sequences is 0"),
        (
            {"num_return_sequences": 5},
            "num_return_sequences is ., and greedy decoding finds only one text",
        ),
        ({"num_beams": 2, "num_return_sequences": 3}, "must not be more than num_beams"),
        ({"num_beams": 2, "early_stopping": "always"}, "early_stopping is 'always'"),
        ({"do_sample": 1}, "do_sample must be true or false, and is 1"),
        ({"eos_token_id": 11}, r"eos_token_id has 11; a token id must be in \[0, 11\)"),
        ({"bad_words_ids": [[1], []]}, "must be a list of words"),
        ({"bad_words_ids": [3]}, "must be a list of words"),
        ({"bad_words_ids": 3}, "must be a list of words"),
        ({"stop_strings": 3, "tokenizer": ByteTokenizer()}, "it must be a string or several"),
        ({"eos_token_id": "x"}, "eos_token_id has 'x'"),
        ({"input_ids": "hello"}, "expected integers"),
        ({"bad_words_ids": [[99]]}, "bad_words_ids has 99"),
        ({"suppress_tokens": [-1]}, "suppress_tokens has -1"),
        ({"begin_suppress_tokens": [1.0]}, "begin_suppress_tokens has 1.0"),
        ({"forced_bos_token_id": True}, "forced_bos_token_id has True"),
        ({"forced_eos_token_id": [1, 11]}, "forced_eos_token_id has 11"),
        ({"min_length": 9, "max_length": 8}, "min_length is 9, and max_length is 8"),
        ({"epsilon_cutoff": 1.5}, "epsilon_cutoff is 1.5"),
        ({"max_time": -1}, "max_time is -1"),
        ({"logits_processor": 3}, "logits_processor is 3; it must be a function"),
        ({"suppress_tokens": range(11)}, "no token may follow"),
        ({"num_beam_groups": 2}, "generate has no option 'num_beam_groups': it is an option"),
        ({"stop_strings": ["a", ""], "tokenizer": ByteTokenizer()}, "none of them empty"),
        ({"temprature": 1}, "did you mean 'temperature'"),
        ({"input_ids": [[1], [2]], "streamer": TextStreamer(ByteTokenizer())}, "one sequence"),
        ({"num_beams": 2, "streamer": TextStreamer(ByteTokenizer())}, "beam search"),
    ],
)
def test_wrong_arguments(options, message):
    with pytest.raises(UserError, match=message):
        MODELS["gpt2"].generate(**{"input_ids": np.array([[1]]), **options})


# ---- the command


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model of bytes with a context of 32, and its tokenizer."""
    folder = tmp_path_factory.mktemp("model")
    make(vocab_size=256, n_positions=32).save_pretrained(folder)
    save_tokenizer(ByteTokenizer(), folder)
    return folder


def npgpt(*args):
    """Run ``npgpt generate`` in this process."""
    return main(["generate", *map(str, args)])


def test_the_command_says_what_generate_returns(folder, tmp_path, capsys):
    file, prompt = tmp_path / "texts.json", "天😀"
    options = dict(max_new_tokens=20, top_p=0.9, seed=4)
    args = [f"--{name}={value}" for name, value in options.items()]
    assert npgpt("--model", folder, "--prompt", prompt, *args, "--json", file) == 0
    tokenizer, model = ByteTokenizer(), GPT.from_pretrained(folder)
    ids = tokenizer.encode(prompt)
    out = model.generate(ids, **options, do_sample=True, temperature=0.8, top_k=200)
    assert capsys.readouterr().out == tokenizer.decode(out[0]) + "\n"
    (record,) = json.loads(file.read_text())
    assert record["prompt"] + record["text"] == tokenizer.decode(out[0])
    assert record["ids"] == out[0, len(ids) :].tolist() and len(record["logprobs"]) == 20
    assert record["seed"] == 4 and record["finish_reason"] == "length"


def test_a_seed_that_was_drawn_writes_the_same_again(folder, tmp_path, capsys):
    file = tmp_path / "texts.json"
    args = ["--model", folder, "--prompt", "ab", "--max_new_tokens", 9, "--num_return_sequences", 3]
    assert npgpt(*args, "--json", file) == 0
    first, records = capsys.readouterr().out, json.loads(file.read_text())
    assert len({record["text"] for record in records}) == 3 and first.count("─" * 72) == 2
    assert npgpt(*args, "--seed", records[0]["seed"]) == 0
    assert capsys.readouterr().out == first


def test_prompts_of_files_and_pipes(folder, tmp_path, capsys, monkeypatch):
    options = ["--model", folder, "--max_new_tokens", 3, "--temperature", 0]

    def said(*args, given=""):
        stdin = io.TextIOWrapper(io.BytesIO(given if isinstance(given, bytes) else given.encode()))
        monkeypatch.setattr("sys.stdin", stdin)
        code = npgpt(*options, *args)
        captured = capsys.readouterr()
        return captured.out if code == 0 else captured.err

    one, two = said("--prompt", "a\nb"), said("--prompt", "é")
    assert said("--prompt", "-", given="é\r\n\n") == two
    assert said("--prompt", "-", given="é\né") == two + "─" * 72 + "\n" + two
    (tmp_path / "prompt.txt").write_text("a\nb\n")
    assert said("--prompt_file", tmp_path / "prompt.txt") == one
    assert "standard input has no text" in said("--prompt", "-", given="\n\n")
    assert "line 2 of standard input is not UTF-8" in said("--prompt", "-", given=b"a\n\xff\n")
    assert "not both" in said("--prompt", "a", "--prompt_file", tmp_path / "prompt.txt")
    (tmp_path / "empty.txt").write_text("\n")
    assert "empty.txt is empty" in said("--prompt_file", tmp_path / "empty.txt")
    assert "prompt is empty" in said()


def test_what_is_not_given_is_the_models(folder, tmp_path, capsys, monkeypatch):
    """And the command's own only where that has nothing."""
    given = {}
    monkeypatch.setattr(command, "write", lambda *args: given.update(vars(args[3])))
    model = tmp_path / "model"

    def settled(*args, **own):
        GPT.from_pretrained(folder).save_pretrained(model)
        (model / "generation_config.json").write_text(json.dumps(own))
        assert npgpt("--model", model, "--prompt", "a", *args) == 0
        names = ("do_sample", "temperature", "top_k", "max_new_tokens", "max_length")
        return tuple(given[name] for name in names)

    model.mkdir()
    save_tokenizer(ByteTokenizer(), model)
    assert settled() == (True, 0.8, 200, 500, None)
    own = dict(do_sample=False, temperature=0.5, top_k=None, max_length=9)
    assert settled(**own) == (False, 0.5, 200, None, 9)
    assert settled("--do_sample", "True", "--max_new_tokens", 7, **own) == (True, 0.5, 200, 7, None)
    assert settled("--temperature", 0, **own)[:2] == (False, 0)
    assert settled("--num_beams", 2)[0] is settled(num_beams=2)[0] is False
    assert settled("--num_beams", 2, do_sample=True)[0] is True
    assert capsys.readouterr().err == ""
    settled("--num_beams", 2, "--top_p", 0.5)
    assert capsys.readouterr().err == "note: top_p has no effect without do_sample=True\n"


def test_the_command_has_the_options(folder, tmp_path, capsys):
    """The same text as from Python."""
    model, file = GPT.from_pretrained(folder), tmp_path / "texts.json"
    free = model.generate([97], max_new_tokens=6, temperature=0)[0].tolist()
    options = dict(suppress_tokens=free[2:3], begin_suppress_tokens=free[1:2])
    options |= dict(forced_bos_token_id=98, forced_eos_token_id=99, min_length=5, max_length=7)
    options |= dict(temperature=0, eos_token_id=free[3])
    args = [
        item
        for name, value in options.items()
        for item in (f"--{name}", *(value if isinstance(value, list) else [value]))
    ]
    assert npgpt("--model", folder, "--prompt", "a", "--json", file, *args) == 0
    (record,) = json.loads(file.read_text())
    assert [97, *record["ids"]] == model.generate([97], **options)[0].tolist()
    assert record["ids"][0] == 98 and record["ids"][-1] in (99, free[3])
    args = ["--epsilon_cutoff", 0.5, "--eta_cutoff", 0.5, "--max_time", 0, "--json", file]
    assert npgpt("--model", folder, "--prompt", "a", *args) == 0
    assert json.loads(file.read_text())[0]["finish_reason"] == "max_time"


def test_what_is_there_is_kept_whatever_ends_it(folder, tmp_path, capsys, monkeypatch):
    file, args = tmp_path / "texts.json", ["--model", folder, "--max_new_tokens", 3]
    args += ["--prompt", "-", "--json", file]

    def kept(given):
        stdin = io.TextIOWrapper(io.BytesIO(given))
        monkeypatch.setattr("sys.stdin", stdin)
        code = npgpt(*args)
        records = json.loads(file.read_text())
        return code, [(record["prompt"], record["finish_reason"]) for record in records]

    assert kept(b"a\n\xff\n") == (2, [("a", "length")])
    assert kept(b"\xff\n") == (2, [("a", "length")]), "nothing is there, and nothing is replaced"
    assert "line 1 of standard input is not UTF-8" in capsys.readouterr().err

    class Head:
        """A reader that goes away after some characters."""

        def __init__(self, n):
            self.n = n

        def write(self, text):
            self.n -= len(text)
            if self.n < 0:
                raise BrokenPipeError
            return len(text)

        def flush(self):
            pass

    for n, expected in [(0, "interrupted"), (200, "length")]:
        with monkeypatch.context() as patched:
            patched.setattr("sys.stdout", Head(n))
            code, found = kept(b"a\n" * 99)
        assert code == 0 and found[0] == ("a", expected) and len(found) < 99


def test_one_file_of_a_folder(folder, capsys):
    args = ["--prompt", "ab", "--seed", 1, "--max_new_tokens", 5]
    assert npgpt("--model", folder, *args) == 0
    expected = capsys.readouterr().out
    assert npgpt("--model", folder / "model.safetensors", *args) == 0
    assert capsys.readouterr().out == expected


def test_words_that_stop_and_words_that_must_not_come(folder, tmp_path, capsys):
    file = tmp_path / "texts.json"
    args = [
        "--model",
        folder,
        "--prompt",
        "ab",
        "--seed",
        1,
        "--max_new_tokens",
        25,
        "--json",
        file,
    ]
    assert npgpt(*args) == 0
    (record,) = json.loads(file.read_text())
    word = next(chr(i) for i in record["ids"] if i < 128)
    assert npgpt(*args, "--stop_strings", word) == 0
    (stopped,) = json.loads(file.read_text())
    assert stopped["finish_reason"] == "stop_string"
    assert stopped["text"] == record["text"][: record["text"].index(word) + 1]
    assert npgpt(*args, "--bad_words", word) == 0
    (without,) = json.loads(file.read_text())
    assert word not in without["text"]
    assert npgpt(*args, "--num_beams", 3, "--early_stopping", "never") == 0


@pytest.mark.parametrize("options", [[], ["--num_beams", 2], ["--num_return_sequences", 2]])
def test_ctrl_c_keeps_the_text_so_far(options, folder, tmp_path, capsys, monkeypatch):
    logits, calls = Reader.logits, []

    def interrupted(self):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return logits(self)

    monkeypatch.setattr(Reader, "logits", interrupted)
    file = tmp_path / "texts.json"
    assert npgpt("--model", folder, "--prompt", "ab", "--json", file, *options) == 130
    for record in json.loads(file.read_text()):
        assert record["finish_reason"] == "interrupted"
        assert len(record["ids"]) == len(record["logprobs"]) == 4
    out = capsys.readouterr().out
    assert out.endswith("ab" + record["text"] + "\n")


def test_the_readmes_text_in_and_out(shared, tmp_path, monkeypatch, capsys):
    """On models that are hardly trained, of the texts that it names."""
    monkeypatch.chdir(tmp_path)
    tiny = ("--n_layer 1 --n_head 2 --n_embd 8 --batch_size 2 --max_iters 2 --eval_iters 1").split()
    for name, text in [("stories", "tinystories_excerpt"), ("novel", "hongloumeng")]:
        content = (shared / "text" / f"{text}.txt").read_text(encoding="utf-8")[:30_000]
        Path(f"{name}.txt").write_text(content, encoding="utf-8")
        assert main(["train", "--data", f"{name}.txt", "--out_dir", f"out/{name}", *tiny]) == 0
    capsys.readouterr()
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    english, chinese = re.findall(r"```py\n(.*?)```", readme, re.DOTALL)
    names = {}
    exec(english, names)
    lines = capsys.readouterr().out
    assert lines.count("Once upon a time in a faraway land") == 6
    assert names["outputs"].shape == (5, 50) and names["output"].shape == (1, 50)
    exec(chinese, names)
    out = capsys.readouterr().out
    assert out.startswith("今天天气很好") and names["output"].shape == (1, 50)
