"""Weights in 8 bits."""

import numpy as np
import pytest
from helpers import draw_model
from hypothesis import given
from hypothesis import strategies as st

from autograd import no_grad
from autograd.kernels import use_kernels
from npgpt import GPT, generate
from npgpt.cli import main
from npgpt.errors import UserError
from npgpt.evaluation.loss import whole_loss
from npgpt.generation.quantize import Int8Matrix, product, quantize
from npgpt.tokenizers import make_tokenizer, save_tokenizer

KERNELS = pytest.mark.parametrize("kernels", [True, False], ids=["kernels", "numpy"])
EPS = np.finfo(np.float32).eps


def with_int8_values(model):
    """The same model in float32, its matrices replaced by what their 8 bits stand for."""
    rounded = GPT(model.config).eval()
    state = {}
    for name, array in model.state_dict().items():
        head = (
            name == "lm_head.weight"
            or name == "transformer.wte.weight"
            and (model.config.tie_word_embeddings)
        )
        if head:
            array = Int8Matrix(array).rows()
        elif ".c_" in name and name.endswith("weight"):
            array = Int8Matrix(array.T).rows().T
        state[name] = array
    rounded.load_state_dict(state)
    return rounded


@given(
    st.integers(0, 300), st.integers(0, 40), st.integers(0, 2**32 - 1), st.integers(-30, 30),
)  # fmt: skip
def test_no_element_is_further_away_than_half_a_scale(n_rows, n, seed, power):
    generator = np.random.default_rng(seed)
    matrix = generator.standard_normal((n_rows, n)) * 10.0 ** (
        power * generator.random((n_rows, 1))
    )
    matrix = matrix.astype(np.float32) * (generator.random((n_rows, 1)) > 0.1)
    quantized = Int8Matrix(matrix)
    assert quantized.values.dtype == np.int8 and quantized.scale.dtype == np.float32
    assert np.abs(quantized.values.astype(int)).max(initial=0) <= 127
    scale = quantized.scale[:, None].astype(np.float64)
    error = np.abs(quantized.rows().astype(np.float64) - matrix)
    assert np.all(error <= scale / 2 + 127 * EPS * scale)
    if n:  # the largest of a row uses all bits
        assert np.all((np.abs(quantized.values).max(1) == 127) | (quantized.scale == 0))


def test_a_transposed_matrix_and_some_rows():
    matrix = np.random.default_rng(0).standard_normal((7, 5)).astype(np.float32)
    quantized = Int8Matrix(matrix.T)
    assert quantized.values.shape == (5, 7) and quantized.values.flags.c_contiguous
    index = np.array([[0, 4], [4, 1]])
    assert np.array_equal(quantized.rows(index), quantized.rows()[index])


@KERNELS
@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=3), st.integers(0, 70), st.integers(0, 40),
    st.sampled_from([np.float32, np.float64]), st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_a_product_is_that_of_the_dequantized_weights(kernels, shape, n_in, n_out, dtype, seed):
    generator = np.random.default_rng(seed)
    x = generator.standard_normal((*shape, n_in)).astype(dtype)
    matrix = Int8Matrix(generator.standard_normal((n_out, n_in)).astype(np.float32))
    with use_kernels(kernels):
        found = product(x, matrix.values, matrix.scale)
    assert found.shape == (*shape, n_out) and found.dtype == dtype
    weight = matrix.values * matrix.scale[:, None].astype(np.float64)
    bound = (n_in + 2) * EPS * (np.abs(x.astype(np.float64)) @ np.abs(weight.T))
    assert np.all(np.abs(found - x.astype(np.float64) @ weight.T) <= bound)


@KERNELS
@pytest.mark.parametrize(
    "options",
    [{}, {"tie_word_embeddings": False}, {"bias": False}, {"norm_position": "post"}],
    ids=["tied", "untied", "no_bias", "post_norm"],
)
def test_an_int8_model_is_the_model_with_rounded_weights(options, kernels):
    model = draw_model(**options)
    ids = np.random.default_rng(1).integers(0, 66, (3, 16))
    with use_kernels(kernels), no_grad():
        found = quantize(model)(ids)[0].numpy()
        expected = with_int8_values(model)(ids)[0].numpy()
        before = model(ids)[0].numpy()
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()
    assert 0 < np.abs(found - before).max() < 0.05 * np.abs(before).max()


@KERNELS
def test_it_evaluates_and_generates(kernels):
    model = draw_model()
    int8, rounded = quantize(model), with_int8_values(model)
    ids = np.random.default_rng(1).integers(0, 66, 100)
    with use_kernels(kernels):
        assert whole_loss(int8, ids) == pytest.approx(whole_loss(rounded, ids), rel=1e-5)
        options = dict(max_new_tokens=20, output_logprobs=True)  # past the context
        found, expected = (generate(m, ids[:9], **options) for m in (int8, rounded))
    assert np.array_equal(found.sequences, expected.sequences)
    np.testing.assert_allclose(found.logprobs, expected.logprobs, rtol=1e-4, atol=1e-5)


def test_the_model_that_it_was_made_of_does_not_change():
    model = draw_model()
    before = {name: array.copy() for name, array in model.state_dict().items()}
    int8 = quantize(model)
    assert int8.n_parameters() == model.n_parameters()
    assert all(np.array_equal(array, before[name]) for name, array in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert quantize(int8) is int8


def test_an_int8_model_is_not_trained(tmp_path):
    int8 = quantize(draw_model())
    with pytest.raises(UserError, match="have no gradient; use the float32 model"):
        int8.train()
    assert not int8.training
    ids = np.arange(6)[None]
    _, loss = int8(ids, ids)
    with pytest.raises(RuntimeError, match="gradient"):
        loss.backward()
    with pytest.raises(UserError, match="int8 weights cannot be saved"):
        int8.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_gradient_leads_through_int8_weights():
    """What stands before a product with rounded weights has the gradient of the rounded model."""
    model = draw_model()
    found = []
    for each in (quantize(model), with_int8_values(model)):
        weight = each.transformer.wpe.weight.requires_grad_()
        each(np.arange(6)[None], np.arange(6)[None])[1].backward()
        found.append(weight.grad.numpy())
    np.testing.assert_allclose(*found, rtol=1e-4, atol=1e-6 * np.abs(found[1]).max())


def test_the_command_writes_with_int8(tmp_path, capsys):
    model, tokenizer = draw_model(), make_tokenizer("char", "".join(map(chr, range(32, 98))))
    model.save_pretrained(tmp_path)
    save_tokenizer(tokenizer, tmp_path)
    command = ["generate", "--model", str(tmp_path), "--prompt", "HELLO", "--temperature", "0"]
    assert main([*command, "--max_new_tokens", "8", "--int8"]) == 0
    ids = generate(quantize(model), tokenizer.encode("HELLO"), max_new_tokens=8)
    assert capsys.readouterr().out.rstrip("\n") == tokenizer.decode(ids[0])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers_are_refused(value):
    model = draw_model()
    model.transformer.h[1].mlp.c_fc.weight.data[3, 4] = value
    with pytest.raises(UserError, match="is NaN or infinite"):
        quantize(model)
