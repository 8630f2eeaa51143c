"""The model: its shapes, its start, and its causality."""

import dataclasses
import math
import re
import tracemalloc

import helpers
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autograd import nn, use_kernels
from autograd.testing import gradcheck
from npgpt import GPT, GPTConfig, UserError
from npgpt.diagnostics.info import Cost, config_of, show
from npgpt.evaluation.loss import whole_loss
from npgpt.generation.quantize import quantize
from npgpt.models.layers import dropout_from
from npgpt.models.llama import LlamaConfig
from npgpt.models.parts import parameters_by_part
from npgpt.models.positions import SinusoidalEmbedding
from npgpt.models.registry import PRESETS, architecture_of
from npgpt.module import unallocated
from npgpt.training.data import random_batch
from npgpt.training.task import accumulate_gradients

TINY = GPTConfig(**helpers.TINY, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0)

configs = st.builds(
    lambda n_head, width, **rest: GPTConfig(
        vocab_size=7, n_positions=8, n_head=n_head, n_embd=n_head * width, **rest
    ),
    n_head=st.integers(1, 3),
    width=st.integers(1, 4),
    n_layer=st.integers(1, 3),
    n_inner=st.sampled_from([None, 5]),
    activation_function=st.sampled_from(["gelu_new", "gelu", "relu", "silu", "tanh"]),
    bias=st.booleans(),
    tie_word_embeddings=st.booleans(),
    scale_attn_weights=st.booleans(),
    scale_attn_by_inverse_layer_idx=st.booleans(),
    norm_position=st.sampled_from(["pre", "post"]),
    position_embedding=st.sampled_from(["learned", "sinusoidal"]),
    window_size=st.sampled_from([None, 1, 3, 8, 20]),
)


def tokens(*shape, seed=0, high=7):
    return np.random.default_rng(seed).integers(0, high, shape)


@given(config=configs, position=st.integers(0, 7), seed=st.integers(0, 99), data=st.data())
def test_a_later_token_never_changes_an_earlier_logit(config, position, seed, data):
    model = GPT(config, seed=seed, dtype=np.float64).eval()
    ids = tokens(2, 8, seed=seed)
    mask = data.draw(st.sampled_from([None, "left", "right", "random"]), "mask")
    if mask is not None:
        shown = np.random.default_rng(seed).random((2, 8)) < 0.7
        order = {"left": slice(None), "right": slice(None, None, -1)}
        mask = np.sort(shown, 1)[:, order[mask]] if mask in order else shown
    before = model(ids, attention_mask=mask)[0].numpy()
    ids[:, position:] = (ids[:, position:] + 3) % 7
    after = model(ids, attention_mask=mask)[0].numpy()
    np.testing.assert_allclose(after[:, :position], before[:, :position], rtol=0, atol=1e-14)
    if config.n_embd > 2:  # one channel, normalized, is a constant, and two are close to +1 and -1
        assert not np.allclose(after[:, position:], before[:, position:], rtol=1e-9)


@given(config=configs, position=st.integers(0, 6), seed=st.integers(0, 99))
def test_nobody_looks_at_padding(config, position, seed):
    model = GPT(config, seed=seed, dtype=np.float64).eval()
    ids, mask = tokens(2, 8, seed=seed), np.ones((2, 8), int)
    mask[0, position] = 0
    before = model(ids, attention_mask=mask)[0].numpy()
    ids[0, position] = (ids[0, position] + 3) % 7
    after = model(ids, attention_mask=mask)[0].numpy()
    seen = mask == 1
    np.testing.assert_allclose(after[seen], before[seen], rtol=0, atol=1e-14)


@given(config=configs, seed=st.integers(0, 99))
def test_attention_maps_are_distributions_over_the_past(config, seed):
    model = GPT(config, seed=seed, dtype=np.float64).eval()
    ids = tokens(2, 8, seed=seed)
    inside = model.activations(ids)
    i, j = np.indices((8, 8))
    for layer, weights in enumerate(inside.attentions):
        assert weights.shape == (2, config.n_head, 8, 8)
        np.testing.assert_allclose(weights.numpy().sum(-1), 1, rtol=1e-12)
        seen = j <= i
        if layer % 2 and config.window_size is not None:
            seen &= i - j < config.window_size
        assert ((weights.numpy() > 0) == seen).all()
    logits = model.lm_head(inside.hidden_states[-1]).numpy()
    np.testing.assert_array_equal(logits, model(ids)[0].numpy())


def test_sinusoidal_positions():
    """The equations of the paper, position by position; a shift is a rotation of each pair."""
    rows = SinusoidalEmbedding(10, np.float64).rows(50)
    for position in (0, 1, 7, 49):
        for i in range(5):
            angle = position / 10000 ** (2 * i / 10)
            assert rows[position, 2 * i] == pytest.approx(math.sin(angle), abs=1e-15)
            assert rows[position, 2 * i + 1] == pytest.approx(math.cos(angle), abs=1e-15)
    pairs = rows[:, ::2] + 1j * rows[:, 1::2]
    np.testing.assert_allclose(pairs[5:] / pairs[:-5], np.tile(pairs[5] / pairs[0], (45, 1)))
    assert SinusoidalEmbedding(7).rows(3).shape == (3, 7)
    model = GPT(dataclasses.replace(TINY, position_embedding="sinusoidal"))
    assert not any("wpe" in name for name, _ in model.named_parameters())


def test_explicit_positions():
    model = GPT(TINY, dtype=np.float64).eval()
    ids = tokens(2, 5, high=11)
    default = model(ids)[0].numpy()
    assert np.array_equal(model(ids, position_ids=np.arange(5))[0].numpy(), default)
    shifted = model(ids, position_ids=np.arange(5) + [[3], [0]])[0].numpy()
    assert np.allclose(shifted[1], default[1]) and not np.allclose(shifted[0], default[0])
    for wrong in ([0, 1, 2, 3, 8], [-1, 0, 1, 2, 3]):
        with pytest.raises(ValueError, match="the context has 8 positions"):
            model(ids, position_ids=wrong)
    with pytest.raises(ValueError, match=r"attention_mask has shape \(2, 4\)"):
        model(ids, attention_mask=np.ones((2, 4)))


@pytest.mark.parametrize("number", [2, -1, 0.5, np.nan, -np.inf, -1e9])
def test_a_mask_that_would_be_added_is_refused(number):
    """In an additive mask 0 stands for a token that is seen: it would mean the opposite here."""
    model, ids = GPT(TINY).eval(), tokens(2, 5, high=11)
    mask = np.ones((2, 5))
    assert np.array_equal(model(ids, attention_mask=mask)[0], model(ids)[0])
    mask[1, 0] = number
    with pytest.raises(ValueError, match="attention_mask holds other numbers than 0 and 1"):
        model(ids, attention_mask=mask)


WRONG_IDS = {  # of a vocabulary of 11
    -1: [[1, -1]], 11: [[11, 0]], -12: [[0, -12]], 2**63 - 1: [[0, 2**63 - 1]],
    2**64 - 1: np.array([[0, 2**64 - 1]], np.uint64), 2**70: [[0, 2**70]],
    -128: np.array([[1, -128]], np.int8), 255: np.array([[255, 1]], np.uint8),
    "bool": [[True, False]], "float64": [[1.0, 2.0]], "float32": np.array([[0, 1]], np.float32),
    "<U1": [["1", "2"]],
}  # fmt: skip


@pytest.mark.parametrize("kernels", [True, False], ids=["kernels", "numpy"])
@pytest.mark.parametrize("wrong", WRONG_IDS, ids=str)
def test_ids_out_of_range_are_refused(wrong, kernels):
    """Wherever ids go in: each message names the id, and how many there are."""
    ids, right = WRONG_IDS[wrong], np.array([[1, 2]])
    model = GPT(TINY).eval()
    logits, table = np.zeros((1, 2, 11)), model.transformer.wte.weight
    calls = [
        lambda: model(ids),
        lambda: model(right, targets=ids),
        lambda: model(right, position_ids=ids),
        lambda: model.activations(ids),
        lambda: model.generate(ids, max_new_tokens=1),
        lambda: quantize(model)(ids),
        lambda: quantize(model).transformer.wte(np.asarray(ids)),
        lambda: whole_loss(model, np.asarray(ids)[0]),
        lambda: model(*random_batch(np.asarray(ids)[0], 1, 1, np.random.default_rng(0))),
        lambda: nn.embedding(ids, table),
        lambda: nn.embedding(ids, np.asfortranarray(table.numpy())),
        lambda: nn.cross_entropy(logits[0], np.asarray(ids)[0]),
        lambda: nn.nll_loss(logits[0], np.asarray(ids)[0]),
        lambda: nn.one_hot(ids, 11),
    ]
    with use_kernels(kernels):
        for i, call in enumerate(calls):
            with pytest.raises((UserError, ValueError, IndexError)) as raised:
                call()
            message = str(raised.value)
            if "probabilities of the same shape" not in message:  # of classes that are floats
                assert str(wrong) in message, i
                assert re.search(r"11|\b8\b", message), i
    assert np.isfinite(model(right, targets=[[-100, 10]])[1].item())


@given(config=configs, seed=st.integers(0, 99))
def test_a_batch_is_its_sequences(config, seed):
    model = GPT(config, seed=seed, dtype=np.float64).eval()
    ids = tokens(3, 6, seed=seed)
    together = model(ids)[0].numpy()
    alone = np.concatenate([model(row[None])[0].numpy() for row in ids])
    np.testing.assert_allclose(together, alone, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    "changes",
    [
        dict(n_layer=1),
        dict(n_layer=1, norm_position="post"),
        dict(n_layer=2, window_size=2, position_embedding="sinusoidal", activation_function="silu"),
    ],
)
def test_every_parameters_gradient(changes):
    """The whole model against central differences, parameter by parameter."""
    model = GPT(dataclasses.replace(TINY, n_embd=6, **changes), dtype=np.float64).eval()
    random = np.random.default_rng(3)
    for parameter in model.parameters():  # away from the start, where much is 0
        parameter.data = parameter.data + 0.3 * random.standard_normal(parameter.shape)
    x, y = tokens(2, 5, high=11), tokens(2, 5, seed=1, high=11)
    y[0, 0] = -100
    owners = {
        name: (module, attribute)
        for prefix, module in model.named_modules()
        for attribute, value in vars(module).items()
        for name, parameter in model.named_parameters()
        if value is parameter and not isinstance(value, list)
    }
    for name, parameter in list(model.named_parameters()):
        if name == "transformer.wte.weight":
            continue  # tied: below
        module, attribute = owners[name]

        def loss(value, module=module, attribute=attribute):
            setattr(module, attribute, value)
            return model(x, y)[1]

        assert gradcheck(loss, [parameter], name=name)
        setattr(module, attribute, parameter)

    table = model.transformer.wte.weight

    def tied_loss(value):
        model.transformer.wte.weight = model.lm_head.weight = value
        return model(x, y)[1]

    assert gradcheck(tied_loss, [table], name="transformer.wte.weight")


def test_initialization_is_gpt2s():
    model = GPT(GPTConfig(vocab_size=500, n_positions=64, n_embd=96, n_layer=8, n_head=4), seed=1)
    for name, parameter in model.named_parameters():
        values = parameter.numpy()
        if name.endswith("bias"):
            assert not values.any(), name
        elif "ln_" in name:
            assert (values == 1).all(), name
        else:
            deviation = 0.02 / 4 if name.endswith("c_proj.weight") else 0.02
            assert values.std() == pytest.approx(deviation, rel=0.05), name
            assert abs(values.mean()) < 4 * deviation / np.sqrt(values.size), name
    same = GPT(model.config, seed=1).state_dict()
    assert all(np.array_equal(same[name], value) for name, value in model.state_dict().items())


def test_gpt1_starts_without_scaling_by_depth():
    config = GPTConfig(n_positions=64, n_embd=96, n_layer=8, n_head=4, norm_position="post")
    model = GPT(dataclasses.replace(config, vocab_size=500), seed=1)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            assert parameter.numpy().std() == pytest.approx(0.02, rel=0.05), name
    assert not any("ln_f" in name for name, _ in model.named_parameters())


SIZES = {
    "gpt1": 116_534_784,
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
    "gpt3-125m": 125_226_240,
    "gpt3-350m": 355_871_744,
    "gpt3-760m": 760_300_032,
    "gpt3-1.3b": 1_315_723_264,
    "gpt3-2.7b": 2_651_553_280,
    "gpt3-6.7b": 6_658_404_352,
    "gpt3-13b": 12_853_386_240,
    "gpt3-175b": 174_604_259_328,
    "llama-7b": 6_738_415_616,
    "llama3.2-1b": 1_235_814_400,
    "mistral-7b": 7_241_732_096,
    "qwen2-0.5b": 494_032_768,
    "smollm2-135m": 134_515_008,
    "bert-base": 109_514_298,  # Devlin et al. 2018: 110 million
    "bert-large": 335_174_458,  # 340 million
    "minilm-l6": 22_713_216,
    "transformer-base": 63_119_496,  # 65 million by the paper, of another vocabulary
    "transformer-big": 214_282_376,  # 213 million
}


def test_every_preset_has_the_published_size():
    sizes = {name: sum(parameters_by_part(config).values()) for name, config in PRESETS.items()}
    assert sizes == SIZES
    for name, config in PRESETS.items():
        with unallocated():  # 175 billion take no memory, and under a second
            assert architecture_of(config).model(config).n_parameters() == SIZES[name]


def test_parts_are_those_of_a_real_model():
    for config in (TINY, dataclasses.replace(TINY, tie_word_embeddings=False, bias=False)):
        assert sum(parameters_by_part(config).values()) == GPT(config).n_parameters()


def test_the_cost_of_gpt3():
    """Brown et al. 2020, table D.1: 3.14e23 operations for 300 billion tokens."""
    cost = Cost(GPTConfig.preset("gpt3-175b"), 1, 2048)
    assert cost.training_flops * 300e9 == pytest.approx(3.14e23, rel=0.02)
    dense = Cost(GPTConfig.preset("gpt3-175b", window_size=None), 1, 2048)
    assert dense.cache == 4 * 2 * 96 * 2048 * 12288 and cost.cache == dense.cache * (1 + 1 / 8) / 2


@given(config=configs, T=st.integers(1, 8))
def test_the_cost_of_attention_counts_what_is_seen(config, T):
    maps = GPT(config, dtype=np.float64).activations(tokens(1, T)).attentions
    cost = Cost(config, 1, T)
    for layer, weights in enumerate(maps):
        assert cost.visible(layer) == pytest.approx((weights.numpy()[0, 0] > 0).sum() / T)
    total = sum(4 * config.n_embd * cost.visible(layer) for layer in range(config.n_layer))
    assert cost.attention_flops == pytest.approx(total)


@pytest.mark.parametrize(
    "config",
    [
        GPTConfig(),
        GPTConfig(norm_position="post", activation_function="relu"),
        LlamaConfig(n_kv_head=2, n_inner=200),
    ],
    ids=["gpt2", "gpt1", "llama"],
)
def test_activations_are_what_the_tape_keeps(config):
    config = dataclasses.replace(
        config, vocab_size=100, n_positions=64, n_embd=64, n_layer=3, n_head=4,
        resid_pdrop=0, embd_pdrop=0, attn_pdrop=0,
    )  # fmt: skip
    model = architecture_of(config).model(config)
    x, y = tokens(2, 8, 64, high=100)
    model(x, y)  # what is made once
    tracemalloc.start()
    _, loss = model(x, y)
    kept = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert kept == pytest.approx(Cost(config, 8, 64).activations, rel=0.1)


@pytest.mark.parametrize(
    ("name", "flops", "activations", "cache"),
    [
        ("gpt1", 241499136, 407302144, 37748736),
        ("gpt2", 265956864, 854659072, 75497472),
        ("gpt3-175b", 352110944256, 164974174208, 10871635968),
        ("smollm2-135m", 552109824, 12040077312, 377487360),
    ],
)
def test_costs_that_were_worked_out_by_hand(name, flops, activations, cache):
    """By the formulas for a layer's matrices, and for the arrays that the tape keeps of it."""
    config = PRESETS[name]
    cost = Cost(config, 1, config.n_positions)
    assert (cost.flops, cost.activations, cost.cache) == (flops, activations, cache)


def test_loss_at_the_start_is_that_of_a_guess():
    model = GPT(GPTConfig(vocab_size=65, n_positions=32, n_embd=64, n_layer=2, n_head=2)).eval()
    _, loss = model(tokens(8, 32, high=65), tokens(8, 32, seed=1, high=65))
    assert loss.item() == pytest.approx(np.log(65), abs=0.1)


def test_float32_throughout():
    config = dataclasses.replace(TINY, attn_pdrop=0.2, resid_pdrop=0.2, embd_pdrop=0.2)
    model = GPT(config)
    logits, loss = model(tokens(2, 8, high=11), tokens(2, 8, high=11))
    assert logits.dtype == loss.dtype == np.float32
    seen, todo = set(), [loss._node]
    while todo:
        node = todo.pop()
        if node.number in seen:
            continue
        seen.add(node.number)
        assert node.dtype == np.float32, node
        for _, residuals, parents in node.steps:
            for value in residuals:
                assert not isinstance(value, np.ndarray) or value.dtype != np.float64, node
            todo += [parent for parent in parents if parent is not None]
        if node.selects:
            todo.append(node.selects[0])
    assert len(seen) > 50
    loss.backward()
    assert {p.grad.dtype for p in model.parameters()} == {np.dtype(np.float32)}


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-13), (np.float32, 2e-6)])
def test_accumulation_equals_the_large_batch(dtype, tolerance):
    one, many = GPT(TINY, seed=5, dtype=dtype), GPT(TINY, seed=5, dtype=dtype)
    x, y = tokens(12, 8, high=11), tokens(12, 8, seed=1, high=11)
    loss = accumulate_gradients(one, [(x, y)])
    split = accumulate_gradients(many, [(x[i : i + 4], y[i : i + 4]) for i in (0, 4, 8)])
    assert loss == pytest.approx(split, rel=tolerance)
    largest = max(np.abs(p.grad.numpy()).max() for p in one.parameters())
    for a, b in zip(one.parameters(), many.parameters(), strict=True):
        np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), atol=tolerance * largest)


def test_dropout_is_of_training_alone_and_seeded():
    model = GPT(dataclasses.replace(TINY, attn_pdrop=0.5, resid_pdrop=0.5, embd_pdrop=0.5))
    x = tokens(2, 8, high=11)

    def logits(seed):
        with dropout_from(np.random.default_rng(seed)):
            return model(x)[0].numpy()

    assert np.array_equal(logits(1), logits(1)) and not np.array_equal(logits(1), logits(2))
    model.eval()
    assert np.array_equal(logits(1), logits(2))


def test_whole_loss_predicts_every_token_once():
    model = GPT(TINY, dtype=np.float64).eval()
    for n in (9, 10, 50, 137):
        text = tokens(n, high=11)
        total = 0.0
        for start in range(0, n - 1, 8):
            window = text[None, start : start + 9]
            loss = model(window[:, :-1], window[:, 1:])[1].item()
            total += loss * (window.shape[1] - 1)
        assert whole_loss(model, text, batch_size=3) == pytest.approx(total / (n - 1), rel=1e-12)


def test_random_batches_reach_both_ends():
    text = np.arange(20, dtype=np.uint16)
    x, y = random_batch(text, 2000, 4, np.random.default_rng(0))
    assert (y == x + 1).all() and x.dtype == np.int64
    assert x.min() == 0 and y.max() == 19


# ---- configuration


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"n_embd": 10, "n_head": 3}, "n_embd is 10 and n_head 3"),
        ({"n_layer": 0}, "n_layer is 0"),
        ({"vocab_size": -5}, "vocab_size is -5"),
        ({"attn_pdrop": 1.5}, "attn_pdrop is 1.5"),
        ({"activation_function": "gelo"}, "did you mean 'gelu'"),
        ({"n_embd": "wide"}, "n_embd must be a whole number"),
        ({"bias": 1}, "bias must be true or false"),
        ({"norm_position": "past"}, "did you mean 'post'"),
        ({"window_size": 0}, "window_size is 0"),
        ({"layer_norm_epsilon": float("nan")}, "layer_norm_epsilon is nan"),
    ],
)
def test_wrong_configurations(fields, message):
    with pytest.raises(UserError, match=message):
        GPTConfig(**fields)


@pytest.mark.parametrize("name", PRESETS)
def test_a_config_survives_its_file(name):
    config = dataclasses.replace(PRESETS[name], attn_pdrop=0.25, n_inner=8)
    assert type(config).from_dict(config.to_dict()) == config


def test_presets():
    assert GPTConfig.preset("gpt2", n_layer=1).n_layer == 1
    with pytest.raises(UserError, match="did you mean 'gpt2-medium'"):
        GPTConfig.preset("gpt2-mediun")


def test_a_model_that_looks_to_another():
    with pytest.raises(UserError, match="cross-attention"):
        GPTConfig.from_dict({"add_cross_attention": True})


def test_the_command_info(capsys):
    from npgpt.cli import main

    assert main(["info", "gpt2", "--batch", "8", "--context=512"]) == 0
    assert "8 x 512" in capsys.readouterr().out
    assert main(["info", "--compare", "gpt1", "gpt3-13b"]) == 0
    out = capsys.readouterr().out
    assert "116,534,784" in out and "12,853,386,240" in out
    assert main(["info"]) == 0
    assert capsys.readouterr().out.count("parameters") == len(PRESETS)
    assert main(["info", "gpt2-mediun"]) == 2
    assert "did you mean 'gpt2-medium'" in capsys.readouterr().err


def test_info(tmp_path):
    page = show(["gpt1", "gpt3-175b"])
    assert "174,604,259,328" in page and "116,534,784" in page
    assert max(map(len, page.splitlines())) <= 80
    GPT(TINY).save_pretrained(tmp_path)
    assert config_of(str(tmp_path)) == TINY
    assert "8 x 5" in show([str(tmp_path)], batch=8, context=5)
    with pytest.raises(UserError, match="--context is 9, and .* has 8 positions"):
        show([str(tmp_path)], context=9)
    with pytest.raises(UserError, match="--batch"):
        show(["gpt2"], batch=0)


def test_configuration_aliases():
    config = GPTConfig(block_size=32)
    assert config.n_positions == config.block_size == 32
    assert GPTConfig.from_dict(config.to_dict()) == config
    assert dataclasses.replace(config, n_layer=3).n_positions == 32
    assert dataclasses.replace(config, n_positions=5).block_size == 5


def test_a_context_that_is_too_long():
    with pytest.raises(ValueError, match="9 tokens do not fit the context of 8"):
        GPT(TINY)(tokens(1, 9))


@given(config=configs, seed=st.integers(0, 99))
def test_checkpoints_save_memory_and_change_no_bit(config, seed):
    config = dataclasses.replace(config, resid_pdrop=0.3, embd_pdrop=0.1, attn_pdrop=0.2)
    ids = tokens(2, 9, seed=seed)
    found = []
    for checkpoint_activations in (False, True):
        model = GPT(config, seed=seed)
        model.transformer.checkpoint_activations = checkpoint_activations
        with dropout_from(np.random.default_rng(seed)):
            loss = model(ids[:, :-1], ids[:, 1:])[1]
        loss.backward()
        found.append([loss.numpy(), *(p.grad.numpy() for p in model.parameters())])
    for a, b in zip(*found, strict=True):
        assert a.tobytes() == b.tobytes()


def test_checkpoints_keep_one_layer_at_a_time():
    """Twelve layers take little more memory than two."""
    peaks = {}
    for n_layer in (2, 12):
        for checkpoint_activations in (False, True):
            config = GPTConfig(
                vocab_size=9, n_positions=64, n_embd=32, n_layer=n_layer, n_head=2,
                resid_pdrop=0, embd_pdrop=0, attn_pdrop=0,
            )  # fmt: skip
            model = GPT(config)
            model.transformer.checkpoint_activations = checkpoint_activations
            ids = tokens(16, 65, high=9)
            for _ in range(2):
                tracemalloc.start()
                model(ids[:, :-1], ids[:, 1:])[1].backward()
                peaks[n_layer, checkpoint_activations] = tracemalloc.get_traced_memory()[1]
                tracemalloc.stop()
    plain, saving = (peaks[12, x] - peaks[2, x] for x in (False, True))
    assert saving < plain / 5
