"""The same weights in transformers' ``generate``: the same tokens, log-probabilities and logits."""

import functools
import json

import numpy as np
import pytest

from npgpt import GPT, GPTConfig
from npgpt.generation.options import Options
from npgpt.generation.processors import log_softmax, process

SMALL = dict(vocab_size=37, n_positions=40, n_embd=24, n_layer=2, n_head=3)
FAMILIES = {"gpt2": "pre", "openai-gpt": "post"}


@functools.cache
def build(folder):
    """Make both families, each as our model and theirs, in float64, from one saved folder."""
    import torch
    from transformers import GPT2LMHeadModel, OpenAIGPTLMHeadModel

    torch.set_num_threads(1)  # small products
    found = {}
    for kind, (family, norm_position) in zip(
        (GPT2LMHeadModel, OpenAIGPTLMHeadModel), FAMILIES.items(), strict=True
    ):
        model = GPT(GPTConfig(**SMALL, norm_position=norm_position))
        random = np.random.default_rng(7)
        for parameter in model.parameters():
            parameter.data += 0.3 * random.standard_normal(parameter.shape, np.float32)
        model.save_pretrained(folder / family)
        theirs = kind.from_pretrained(folder / family, dtype=torch.float64).eval()
        found[family] = GPT.from_pretrained(folder / family, dtype=np.float64), theirs
    return found


@pytest.fixture
def twins(oracle, tmp_path_factory):
    """Our models and theirs."""
    return build(tmp_path_factory.getbasetemp())


def prompts(B=3, T=5, seed=0):
    return np.random.default_rng(seed).integers(0, SMALL["vocab_size"], (B, T))


def theirs_of(theirs, ids, mask=None, **options):
    import torch

    torch.manual_seed(0)
    options.setdefault("pad_token_id", 2)
    mask = np.ones_like(ids) if mask is None else mask
    return theirs.generate(torch.tensor(ids), attention_mask=torch.tensor(mask), **options)


PROCESSORS = {
    "repetition_penalty": dict(repetition_penalty=1.7),
    "repetition_reward": dict(repetition_penalty=0.6),
    "no_repeat_ngram_size": dict(no_repeat_ngram_size=2),
    "no_repeat_single": dict(no_repeat_ngram_size=1),
    "bad_words_ids": dict(bad_words_ids=[[3], [4, 5], [6, 7, 8], [9]], eos_token_id=9),
    "min_new_tokens": dict(min_new_tokens=5, eos_token_id=[1, 2]),
    "min_length": dict(min_length=9, eos_token_id=[1, 2]),
    "both_minima": dict(min_length=12, min_new_tokens=2, eos_token_id=[1, 2]),
    "suppress_tokens": dict(suppress_tokens=[3, 8, 9]),
    "begin_suppress_tokens": dict(begin_suppress_tokens=[3, 8, 9]),
    "forced_bos_token_id": dict(forced_bos_token_id=4, begin_suppress_tokens=[3]),
    "forced_eos_token_id": dict(forced_eos_token_id=[4, 7], eos_token_id=4),
    "epsilon_cutoff": dict(do_sample=True, top_k=0, epsilon_cutoff=0.03),
    "large_epsilon_cutoff": dict(do_sample=True, top_k=0, epsilon_cutoff=0.9),
    "eta_cutoff": dict(do_sample=True, top_k=0, eta_cutoff=0.05),
    "large_eta_cutoff": dict(do_sample=True, top_k=3, eta_cutoff=0.9),
    "all_off": dict(do_sample=True, top_k=None, top_p=None, temperature=None, epsilon_cutoff=0.0),
    "temperature": dict(do_sample=True, top_k=0, temperature=0.6),
    "top_k": dict(do_sample=True, top_k=5),
    "top_k_of_more": dict(do_sample=True, top_k=99),
    "top_p": dict(do_sample=True, top_k=0, top_p=0.7),
    "tiny_top_p": dict(do_sample=True, top_k=0, top_p=1e-6),
    "min_p": dict(do_sample=True, top_k=0, min_p=0.1),
    "typical_p": dict(do_sample=True, top_k=0, typical_p=0.6),
    "tiny_typical_p": dict(do_sample=True, top_k=0, typical_p=1e-6),
}
PROCESSORS["all"] = dict(
    do_sample=True, repetition_penalty=1.3, no_repeat_ngram_size=3, bad_words_ids=[[3], [4, 5]],
    eos_token_id=9, min_new_tokens=4, temperature=1.7, top_k=20, top_p=0.9, min_p=0.02,
    typical_p=0.8, epsilon_cutoff=0.03, eta_cutoff=0.06, suppress_tokens=[7], min_length=8,
    begin_suppress_tokens=[1, 2], forced_eos_token_id=9,
)  # fmt: skip


@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_processors(twins, family, name):
    """What they make of their own logits, at every step."""
    options, ids = PROCESSORS[name], prompts(T=1 if "bos" in name else 5)
    result = theirs_of(
        twins[family][1], ids, max_new_tokens=8, return_dict_in_generate=True,
        output_scores=True, output_logits=True, **options,
    )  # fmt: skip
    assert len(result.scores) > 1
    for n_new, (logits, scores) in enumerate(zip(result.logits, result.scores, strict=True)):
        so_far = result.sequences.numpy()[:, : ids.shape[1] + n_new]
        settled = Options(**options, max_new_tokens=8)
        ours = process(settled, so_far, logits.numpy().astype(np.float64), n_new)
        assert np.array_equal(ours == -np.inf, scores.numpy() == -np.inf)
        np.testing.assert_allclose(ours, scores.numpy(), rtol=1e-5, atol=1e-5)


GREEDY = {
    "plain": {},
    "max_length": dict(max_length=17),
    "eos": dict(eos_token_id=[1, 5, 9, 12, 33]),
    "penalties": dict(repetition_penalty=1.4, no_repeat_ngram_size=2, bad_words_ids=[[3], [4, 5]]),
    "min_new_tokens": dict(eos_token_id=[1, 5, 9, 12, 33], min_new_tokens=10),
    "uncached": dict(use_cache=False),
    "min_length": dict(eos_token_id=[1, 5, 9, 12, 33], min_length=13),
    "suppressed": dict(
        eos_token_id=9, suppress_tokens=[3, 9, 12], begin_suppress_tokens=[1, 5, 33]
    ),
    "forced_eos": dict(forced_eos_token_id=[4, 7], eos_token_id=[1, 5, 9]),
    "forced_eos_at_length": dict(forced_eos_token_id=8, max_length=12),
    "no_eos": dict(eos_token_id=None, min_length=9),
    "no_time": dict(max_time=0),
    "no_length": dict(max_new_tokens=None),
}


@pytest.mark.parametrize("name", GREEDY)
@pytest.mark.parametrize("family", FAMILIES)
def test_greedy(twins, family, name):
    ours, theirs = twins[family]
    options = GREEDY[name]
    if "max_length" not in options:
        options = options | dict(max_new_tokens=30)
    ids = prompts(B=4)
    expected = theirs_of(theirs, ids, **options, return_dict_in_generate=True, output_logits=True)
    result = ours.generate(ids, pad_token_id=2, output_logprobs=True, **options)
    assert np.array_equal(result.sequences, expected.sequences.numpy())
    logits = np.stack([step.numpy() for step in expected.logits], 1).astype(np.float64)
    chosen = result.sequences[:, ids.shape[1] :, None]
    logprobs = np.take_along_axis(log_softmax(logits), chosen, -1)[..., 0]
    counts = result.logprobs != 0
    np.testing.assert_allclose(result.logprobs[counts], logprobs[counts], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("beams", [1, 3])
def test_prompts_of_different_lengths(twins, beams):
    """GPT-2 there counts positions by the mask, as ours do; its GPT-1 does not."""
    ours, theirs = twins["gpt2"]
    ids, mask = prompts(), np.ones((3, 5), int)
    mask[0, :2] = mask[1, :4] = 0
    ids[mask == 0] = 2
    options = dict(max_new_tokens=20, num_beams=beams, eos_token_id=[1, 5, 9], pad_token_id=2)
    expected = theirs_of(theirs, ids, mask, **options).numpy()
    ragged = [row[row_mask == 1] for row, row_mask in zip(ids, mask, strict=True)]
    assert np.array_equal(ours.generate(ragged, **options), expected)
    assert np.array_equal(ours.generate(ids, attention_mask=mask, **options), expected)


COMBINED = {
    "lengths": dict(min_length=9, max_length=16),
    "suppressed": dict(suppress_tokens=[3, 12, 20], begin_suppress_tokens=[4, 6, 24]),
    "forced": dict(forced_eos_token_id=[7, 8], forced_bos_token_id=6),
    "words": dict(bad_words_ids=[[3], [4, 5], [12]], no_repeat_ngram_size=2),
    "all": dict(
        min_length=8, max_length=14, suppress_tokens=[3], begin_suppress_tokens=[4, 6],
        forced_eos_token_id=7, bad_words_ids=[[12]], repetition_penalty=1.3,
        epsilon_cutoff=0.01, eta_cutoff=0.02, typical_p=0.95, min_p=0.01,
    ),
}  # fmt: skip


@pytest.mark.parametrize("do_sample", [False, True], ids=["best", "sampled"])
@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("name", COMBINED)
def test_options_in_combination(twins, name, beams, do_sample, monkeypatch):
    """With padding, beams, sampling, and functions of a user; with a cache and without."""
    import torch

    def prefer(input_ids, scores):  # tokens next to the last, in either library
        scores[np.arange(len(scores)), (input_ids[:, -1] + 1) % scores.shape[1]] += 1.5
        return scores

    def ends(input_ids, scores, **kwargs):
        return (input_ids[:, -1] == 11) & (input_ids[:, -2] != 11)

    ours, theirs = twins["gpt2"]
    ids, mask = prompts(B=4), np.ones((4, 5), int)
    mask[:, 0] = mask[1, :3] = mask[3, :4] = 0  # a column is padding everywhere
    ids[mask == 0] = 2
    if "forced_bos_token_id" in COMBINED[name]:
        ids, mask = prompts(B=4, T=1), np.ones((4, 1), int)
    options = dict(max_new_tokens=10, num_beams=beams, do_sample=do_sample, eos_token_id=[1, 5, 9])
    options |= dict(pad_token_id=2, num_return_sequences=min(beams, 2)) | COMBINED[name]
    if "max_length" in options:
        del options["max_new_tokens"]
    if do_sample and beams == 1:
        options["top_k"] = 1  # one of our draws takes one number, one of theirs another
    if do_sample and beams > 1:  # where theirs fails with fewer tokens than candidates to draw
        options = {name: value for name, value in options.items() if "forced" not in name}
    n = len(ids)
    generators = [np.random.default_rng(3) for _ in range(n)]

    def multinomial(probabilities, num_samples):
        if beams == 1:
            return probabilities.topk(num_samples).indices
        size = probabilities.shape[1]
        noise = np.stack([generator.gumbel(size=size) for generator in generators])
        return (probabilities.log() + torch.tensor(noise)).topk(num_samples).indices

    functions = dict(logits_processor=[prefer], stopping_criteria=[ends])
    with monkeypatch.context() as patched:
        patched.setattr(torch, "multinomial", multinomial)
        expected = theirs_of(theirs, ids, mask, **options, **functions).numpy()
    for use_cache in (True, False):
        found = ours.generate(
            ids, attention_mask=mask, seed=3, use_cache=use_cache, **options, **functions
        )
        assert np.array_equal(found, expected)


def test_options_of_a_folder(oracle, tmp_path):
    """From either file, as transformers has them."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(1)
    config = GPT2Config(**SMALL, initializer_range=0.7)  # whose end of text is no token of it
    GPT2LMHeadModel(config).eval().save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["eos_token_id"] == 50256
    ids = prompts(B=2)
    for own in (
        {},
        dict(eos_token_id=[5, 16, 9], pad_token_id=3, min_length=7),
        dict(eos_token_id=None, suppress_tokens=[16, 30], max_length=11),
        dict(forced_eos_token_id=8, num_beams=3, bad_words_ids=[[16]], unknown=3, top_k=None),
    ):
        for name in ("config.json", "generation_config.json"):
            for file in tmp_path.glob("*config.json"):
                file.unlink()
            (tmp_path / "config.json").write_text(json.dumps(written))
            values = (written if name == "config.json" else {}) | own
            (tmp_path / name).write_text(json.dumps(values))
            theirs = GPT2LMHeadModel.from_pretrained(tmp_path, dtype=torch.float64).eval()
            ours = GPT.from_pretrained(tmp_path, dtype=np.float64)
            for given in ({}, dict(eos_token_id=None, max_new_tokens=5), dict(min_new_tokens=6)):
                mask = torch.ones(ids.shape, dtype=int)
                expected = theirs.generate(torch.tensor(ids), attention_mask=mask, **given)
                assert np.array_equal(ours.generate(ids, **given), expected.numpy()), (own, given)


@pytest.mark.parametrize("early_stopping", [True, False, "never"])
@pytest.mark.parametrize("length_penalty", [-1.0, 0.0, 1.0, 2.5])
@pytest.mark.parametrize("num_beams", [2, 4])
@pytest.mark.parametrize("family", FAMILIES)
def test_beam_search(twins, family, num_beams, length_penalty, early_stopping):
    ours, theirs = twins[family]
    options = dict(
        num_beams=num_beams, length_penalty=length_penalty, early_stopping=early_stopping,
        num_return_sequences=num_beams - 1, max_new_tokens=10, pad_token_id=2,
    )  # fmt: skip
    for seed, more in enumerate([{}, dict(eos_token_id=[1, 5, 9]), dict(eos_token_id=12)]):
        ids = prompts(seed=seed)
        expected = theirs_of(theirs, ids, **options, **more).numpy()
        assert np.array_equal(ours.generate(ids, **options, **more), expected), more


@pytest.mark.parametrize("family", FAMILIES)
def test_beam_search_with_processors(twins, family):
    ours, theirs = twins[family]
    options = dict(
        num_beams=4, max_new_tokens=12, repetition_penalty=1.4, no_repeat_ngram_size=2,
        bad_words_ids=[[3], [4, 5]], eos_token_id=9, min_new_tokens=3, pad_token_id=2,
    )  # fmt: skip
    expected = theirs_of(theirs, prompts(), **options).numpy()
    assert np.array_equal(ours.generate(prompts(), **options), expected)


SAMPLED_BEAMS = {
    "plain": dict(top_k=0),
    "temperature": dict(top_k=0, temperature=1.7, eos_token_id=12, num_return_sequences=3),
    "top_k": dict(top_k=1, eos_token_id=[1, 5, 9]),
    "top_p": dict(top_k=0, top_p=1e-6, eos_token_id=[1, 5, 9, 12], length_penalty=0.0),
    "min_p": dict(top_k=0, min_p=1.0, early_stopping=True, eos_token_id=9),
    "typical_p": dict(top_k=0, typical_p=1e-6, early_stopping="never", eos_token_id=[1, 2]),
    "all": dict(top_k=9, top_p=0.9, typical_p=0.9, temperature=0.8, eos_token_id=[1, 5, 9]),
}


@pytest.mark.parametrize("name", SAMPLED_BEAMS)
@pytest.mark.parametrize("family", FAMILIES)
def test_beam_search_that_samples(twins, family, name, monkeypatch):
    """With the same random numbers: theirs draws by torch.multinomial, which has ours here."""
    import torch

    ours, theirs = twins[family]
    for seed in range(4):
        generators = [np.random.default_rng(seed) for _ in range(3)]  # of each prompt

        def multinomial(probabilities, num_samples, generators=generators):
            size = probabilities.shape[1]
            noise = np.stack([generator.gumbel(size=size) for generator in generators])
            return (probabilities.log() + torch.tensor(noise)).topk(num_samples).indices

        options = dict(num_beams=4, do_sample=True, max_new_tokens=10, **SAMPLED_BEAMS[name])
        with monkeypatch.context() as patched:
            patched.setattr(torch, "multinomial", multinomial)
            expected = theirs_of(theirs, prompts(seed=seed), **options).numpy()
        found = ours.generate(prompts(seed=seed), seed=seed, pad_token_id=2, **options)
        assert np.array_equal(found, expected)


@pytest.mark.parametrize("stop", ["t", "it", ["qu", "n t"]])
def test_stop_strings(twins, tmp_path, stop):
    """They may begin in the prompt and end inside a token, there as here."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models
    from transformers import PreTrainedTokenizerFast

    from npgpt.tokenizers import ByteTokenizer

    merges = [tuple(pair) for pair in "th he in it an qu nt at io on".split()]
    pieces = [*"abcdefghijklmnopqrstuvwxyz ", *map("".join, merges)]
    assert len(pieces) == SMALL["vocab_size"]
    backend = Backend(models.BPE({piece: i for i, piece in enumerate(pieces)}, merges))
    backend.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    mine = ByteTokenizer()
    mine.tokens = {i: piece.encode() for i, piece in enumerate(pieces)}
    ours, theirs = twins["gpt2"]
    for seed in range(6):
        ids = prompts(B=1, seed=seed)
        options = dict(max_new_tokens=20, stop_strings=stop, repetition_penalty=1.2)
        expected = theirs_of(theirs, ids, tokenizer=tokenizer, **options).numpy()
        assert np.array_equal(ours.generate(ids, tokenizer=mine, **options), expected)


def test_a_streamer_of_theirs(twins):
    """Streamers follow one protocol: theirs works here."""
    from transformers.generation.streamers import BaseStreamer

    class Recorder(BaseStreamer):
        def __init__(self):
            self.calls = []

        def put(self, value):
            self.calls.append(np.asarray(value).tolist())

        def end(self):
            self.calls.append("end")

    ours, theirs = twins["gpt2"]
    here, there = Recorder(), Recorder()
    ours.generate(prompts(B=1), max_new_tokens=3, streamer=here)
    theirs_of(theirs, prompts(B=1), max_new_tokens=3, streamer=there)
    assert here.calls == there.calls
