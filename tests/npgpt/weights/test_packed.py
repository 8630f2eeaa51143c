"""Weights that stay packed as a GGUF file has them: the same numbers as their float32 copies."""

import numpy as np
import pytest
from helpers import draw_gguf, gguf_llama, write_gguf
from hypothesis import given
from hypothesis import strategies as st

import autograd
from autograd import no_grad
from autograd.kernels import use_kernels
from npgpt import GPT, Chat, UserError, generate, load_model, load_tokenizer
from npgpt.cli import main
from npgpt.evaluation.loss import whole_loss
from npgpt.generation.decode import Decoder
from npgpt.generation.quantize import Int8GPT, quantize
from npgpt.models.cache import KVCache
from npgpt.models.llama import Llama
from npgpt.models.lora import LoraConfig, adapted_layers
from npgpt.tokenizers.templates import find_template
from npgpt.weights.adapters import add_lora, save_adapter
from npgpt.weights.packed import (
    FORMATS,
    PackedEmbedding,
    PackedGPT,
    PackedLinear,
    PackedMatrix,
    product,
)

KERNELS = pytest.mark.parametrize("kernels", [True, False], ids=["kernels", "numpy"])
BLOCKS = [name for name in FORMATS if name != "int8"]
EPS = np.finfo(np.float32).eps


def draw_matrix(name, n_out, n_in, seed=0):
    """A packed matrix, and its numbers by the reader of files."""
    raw = draw_gguf(name, (n_out, n_in), np.random.default_rng(seed))
    values = np.frombuffer(raw.tobytes(), np.uint8).reshape(n_out, -1)
    return PackedMatrix(values, name)


def test_the_kernels_know_the_same_formats():
    packed = pytest.importorskip("autograd.kernels.packed")
    assert set(packed.FORMATS) == set(FORMATS)
    for name in BLOCKS:
        assert draw_matrix(name, 1, 32).values.shape[1] == packed.FORMATS[name]


@KERNELS
@pytest.mark.parametrize("name", BLOCKS)
@given(
    st.sampled_from([1, 2, 8, 9, 43, 100]), st.integers(1, 5), st.sampled_from([1, 7, 64, 65, 130]),
    st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_a_product_is_that_of_the_numbers(kernels, name, n_rows, n_blocks, n_out, seed):
    matrix = draw_matrix(name, n_out, 32 * n_blocks, seed)
    x = np.random.default_rng(seed).standard_normal((n_rows, 32 * n_blocks)).astype(np.float32)
    weight = matrix.rows().astype(np.float64)
    with use_kernels(kernels):
        found = product(x, matrix.values, None, name)
    assert found.shape == (n_rows, n_out) and found.dtype == np.float32
    bound = (32 * n_blocks + 2) * EPS * (np.abs(x.astype(np.float64)) @ np.abs(weight.T))
    assert np.all(np.abs(found - x.astype(np.float64) @ weight.T) <= bound)


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("n_rows", [1, 3, 1056])
def test_kernels_unpack_the_same_bits(name, n_rows):
    """Times the identity, a matrix is itself; more than 512 terms are unpacked in two parts."""
    matrix = draw_matrix(name, 70, 1056)
    identity = np.eye(1056, dtype=np.float32)
    found = [
        product(identity[i : i + n_rows], matrix.values, None, name) for i in range(0, 1056, n_rows)
    ]
    assert np.array_equal(np.concatenate(found), matrix.rows().T)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A model in each format; all but the norms are of this format."""
    folder = tmp_path_factory.mktemp("packed")
    for name in BLOCKS:
        write_gguf(folder / f"{name}.gguf", *gguf_llama({"norm": "F32", "": name}))
    return folder


@pytest.mark.parametrize("name", ["Q4_1", "int8"])
def test_the_gradient_of_a_product_and_its_derivative(name):
    """In float64, against the product with the unpacked matrix: both derivatives to 1e-11."""
    random = np.random.default_rng(0)
    matrix = draw_matrix("Q4_1", 5, 64)
    if name == "int8":
        scale = random.random(5, np.float32)
        matrix = PackedMatrix(random.integers(-99, 99, (5, 64), np.int8), "int8", scale)
    packed = matrix.values, matrix.scale, name
    whole = matrix.rows().T.astype(np.float64)
    x, v = (random.standard_normal((2, 3, 64)) / 50 for _ in range(2))
    results = []
    for multiply in (lambda x: product(x, *packed), lambda x: x @ whole):
        tensor = autograd.tensor(x, requires_grad=True)
        value = np.sum(np.sin(multiply(tensor)))
        first = autograd.grad(value, tensor, create_graph=True)
        second = autograd.grad(np.sum(first * v), tensor)
        results.append((value.item(), first.numpy(), second.numpy()))
    for found, expected in zip(*results, strict=True):
        spread = np.abs(expected).max()
        np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-11 * spread)
    assert "product" not in autograd.REGISTRY  # whose ops have formulas and samples


@KERNELS
@pytest.mark.parametrize("name", ["Q4_1", "Q8_0"])
def test_lora_beside_packed_weights_is_lora_beside_float32_weights(name, kernels, files, tmp_path):
    """Loss, gradients, the saved adapter and generation agree to rounding."""
    path = files / f"{name}.gguf"
    ids = np.random.default_rng(2).integers(0, 259, (2, 12))
    models = [load_model(path), load_model(path, packed=True)]
    with use_kernels(kernels):
        for model in models:
            add_lora(model, LoraConfig(r=3, lora_alpha=12, target_modules="all-linear"), seed=4)
            for _, _, adapter in adapted_layers(model):  # if B is 0, the gradient of A is 0
                shape = adapter.lora_B.shape
                adapter.lora_B.data[...] = np.random.default_rng(shape).standard_normal(shape) / 9
            _, loss = model.train()(ids[:, :-1], targets=ids[:, 1:])
            loss.backward()
            model.eval()
        known, found = (
            {n: p.grad.numpy() for n, p in model.named_parameters() if p.requires_grad}
            for model in models
        )
        assert found.keys() == known.keys() and len(found) == 2 * 7 * 2
        for place, gradient in found.items():
            spread = np.abs(known[place]).max()
            assert spread > 0
            np.testing.assert_allclose(gradient, known[place], atol=3e-5 * spread)
        save_adapter(models[1], tmp_path / "adapter", str(path))
        again = load_model(tmp_path / "adapter", packed=True)
        assert isinstance(again, PackedGPT)
        with no_grad():
            expected = load_model(tmp_path / "adapter")(ids)[0].numpy()  # beside float32 weights
            spread = np.abs(expected).max()
            assert np.abs(expected - load_model(path)(ids)[0].numpy()).max() > 0.01 * spread
            np.testing.assert_allclose(again(ids)[0].numpy(), expected, atol=3e-5 * spread)
            decoder = Decoder(again, KVCache(12))  # whose compiled steps have the change, too
            for t in range(12):
                step = decoder(ids[:, t : t + 1])
                np.testing.assert_allclose(step, expected[:, t], atol=3e-5 * spread)


def test_packed_weights_alone_are_not_trained(files):
    """Without LoRA's matrices, there is nothing to train; no packed weight becomes a parameter."""
    model = load_model(files / "Q8_0.gguf", packed=True)
    with pytest.raises(UserError, match="LoRA's matrices beside them"):
        model.train()
    assert add_lora(model, LoraConfig(r=1)).train().training
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert len(trained) == 2 * 2 * 2 and all(".adapter.lora_" in name for name in trained)


@KERNELS
@pytest.mark.parametrize("name", BLOCKS)
def test_a_packed_model_is_the_float32_model(name, kernels, files):
    path = files / f"{name}.gguf"
    model, packed = load_model(path), load_model(path, packed=True)
    assert isinstance(packed, PackedGPT) and not packed.training
    kinds = [m for _, m in packed.named_modules() if isinstance(m, PackedLinear | PackedEmbedding)]
    assert len(kinds) == 2 * 7 + 2 and {m.weight.format for m in kinds} == {name}
    assert all(parameter.ndim == 1 for parameter in packed.parameters())
    assert packed.n_parameters() == model.n_parameters()
    ids = np.random.default_rng(1).integers(0, 259, (2, 20))
    with use_kernels(kernels), no_grad():
        expected, found = model(ids)[0].numpy(), packed(ids)[0].numpy()
        np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())
        decoders = [Decoder(each, KVCache(20)) for each in (model, packed)]
        for t in range(20):
            expected, found = (decoder(ids[:, t : t + 1]) for decoder in decoders)
            np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())
        assert whole_loss(packed, ids[0]) == pytest.approx(whole_loss(model, ids[0]), rel=1e-5)


@pytest.mark.parametrize("name", BLOCKS)
def test_a_step_is_one_program(name, files):
    pytest.importorskip("numba")
    decoder = Decoder(load_model(files / f"{name}.gguf", packed=True), KVCache(8))
    with use_kernels(True), no_grad():
        decoder(np.array([[1]]))
        decoder(np.array([[2]]))
    assert decoder._step is not None


def test_tensors_of_other_types_become_float32(tmp_path):
    metadata, tensors = gguf_llama({"attn_q": "Q4_0", "ffn_down": "F16"})
    write_gguf(tmp_path / "a.gguf", metadata, tensors)
    packed = load_model(tmp_path / "a.gguf", packed=True)
    block = packed.transformer.h[1]
    assert block.self_attn.q_proj.weight.format == "Q4_0"
    assert block.mlp.down_proj.weight.format == "F16"
    assert block.self_attn.k_proj.weight.dtype == np.float32
    ids = np.arange(9)[None]
    found, expected = packed(ids)[0].numpy(), load_model(tmp_path / "a.gguf")(ids)[0].numpy()
    np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())
    write_gguf(tmp_path / "b.gguf", *gguf_llama())
    plain = load_model(tmp_path / "b.gguf", packed=True)
    assert not isinstance(plain, PackedGPT)  # nothing is packed
    double = load_model(tmp_path / "a.gguf", dtype=np.float64, packed=True)
    assert not isinstance(double, PackedGPT)


def test_values_are_not_copied(files):
    packed = load_model(files / "Q4_1.gguf", packed=True)
    table = packed.transformer.wte.weight
    assert table is packed.lm_head.weight  # they are tied
    assert not table.values.flags.owndata


def test_int8_of_a_packed_model_is_that_of_the_float32_model(files):
    path = files / "Q4_1.gguf"
    found, expected = quantize(load_model(path, packed=True)), quantize(load_model(path))
    assert isinstance(found, Int8GPT)
    for ours, theirs in zip(found.named_modules(), expected.named_modules(), strict=True):
        if isinstance(ours[1], PackedLinear):
            assert np.array_equal(ours[1].weight.values, theirs[1].weight.values)
            assert np.array_equal(ours[1].weight.scale, theirs[1].weight.scale)


def test_it_is_neither_trained_nor_saved(files, tmp_path):
    packed = load_model(files / "Q8_0.gguf", packed=True)
    with pytest.raises(UserError, match="have no gradient; use the float32 model"):
        packed.train()
    with pytest.raises(UserError, match="cannot be saved: load the model with float32 weights"):
        packed.save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new").exists()
    assert load_model(files / "Q8_0.gguf").train().training


def test_the_commands_keep_weights_packed(files, capsys, monkeypatch):
    path, loaded = files / "Q4_1.gguf", []

    def load(*args, **options):
        loaded.append(load_model(*args, **options))
        return loaded[-1]

    monkeypatch.setattr("npgpt.commands.generate.load_model", load)
    command = ["generate", "--model", str(path), "--prompt", "the", "--temperature", "0"]
    texts = []
    for options in ([], ["--float32"], ["--int8"]):
        assert main([*command, "--max_new_tokens", "3", *options]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]
    assert [isinstance(model, PackedGPT) for model in loaded] == [True, False, True]
    assert main([*command, "--int8", "--float32"]) == 2
    assert "give --int8 or --float32, not both" in capsys.readouterr().err


@pytest.mark.parametrize("make", [lambda model: model, quantize], ids=["packed", "int8"])
def test_a_chat(make, files):
    path = files / "Q4_1.gguf"
    model = make(load_model(path, packed=True))
    template = find_template("plain")
    chat = Chat(model, load_tokenizer(path), chat_template=template, max_new_tokens=5, seed=1)
    chat.say("Hello")
    chat.say("Again")
    assert len(chat.turns) == 2
    assert generate(model, [[1, 2, 3]], max_new_tokens=4).shape == (1, 7)
    assert GPT.from_pretrained is load_model


@KERNELS
def test_the_smallest_and_the_largest_float16(kernels):
    numbers = np.array([6e-8, 6.1e-5, -5e-7, 65504, -0.0, -1, np.inf, np.nan] * 4, np.float16)
    rows = np.diag(numbers)  # (32, 32), so that each product has one number only
    matrix = PackedMatrix(rows.view(np.uint8), "F16")
    with use_kernels(kernels):
        found = product(np.ones((1, 32), np.float32), matrix.values, None, "F16")[0]
    assert np.array_equal(found, numbers.astype(np.float32), equal_nan=True)


def test_a_model_with_a_forward_of_its_own_becomes_float32(files, monkeypatch):
    monkeypatch.setattr(Llama, "forward", lambda *args: GPT.forward(*args), raising=False)
    assert type(load_model(files / "Q4_1.gguf", packed=True)) is Llama
