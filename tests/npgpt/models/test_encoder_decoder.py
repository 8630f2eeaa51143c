"""The encoder-decoder without an oracle: the paper's positions, and messages for wrong input."""

import subprocess
import sys

import numpy as np
import pytest
from helpers import npgpt

import autograd
from npgpt import UserError, generate, load_model
from npgpt.generation.quantize import quantize
from npgpt.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from npgpt.models.positions import SinusoidalEmbedding
from npgpt.tokenizers import ByteTokenizer, save_tokenizer

TINY = dict(vocab_size=11, n_positions=8, n_embd=12, n_layer=2, n_head=3, eos_token_id=1)


def tiny(**options):
    return EncoderDecoder(EncoderDecoderConfig(**TINY | options)).eval()


def test_positions_alternate_as_in_section_3_5():
    table = SinusoidalEmbedding(6, np.float64).rows(50)
    for p, i in np.ndindex(50, 3):
        angle = p / 10000 ** (2 * i / 6)
        assert table[p, 2 * i : 2 * i + 2] == pytest.approx([np.sin(angle), np.cos(angle)])


def test_padding_of_the_source_changes_nothing():
    model, source = tiny(), np.array([[3, 4, 5]])
    target = np.array([[6, 7, 1]])
    padded = np.array([[3, 4, 5, 9, 9]])
    expected = model(source, target)[0].numpy()
    found = model(padded, target, np.array([[1, 1, 1, 0, 0]]))[0].numpy()
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_sources_of_several_lengths_are_written_as_alone():
    model = tiny(attn_pdrop=0.5)
    together = generate(model, [[3, 4, 5], [6]], max_new_tokens=5, num_beams=2)
    for row, source in zip(together, ([3, 4, 5], [6]), strict=True):
        alone = generate(model, [source], max_new_tokens=5, num_beams=2)[0]
        np.testing.assert_array_equal(row[: len(alone)], alone)


@pytest.mark.parametrize("model_type", ["encoder-decoder", "marian"])
def test_a_saved_model_comes_back(model_type, tmp_path):
    model = tiny(model_type=model_type)
    model.save_pretrained(tmp_path)
    again = load_model(tmp_path)
    assert type(again) is EncoderDecoder and again.config == model.config
    for a, b in zip(model.parameters(), again.parameters(), strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda m: m(np.zeros((1, 9), int), np.array([[1]])), "9 tokens, and the model reads at"),
        (lambda m: m(np.array([[11]]), np.array([[1]])), "the source holds 11"),
        (lambda m: m(np.zeros((1, 0), int), np.array([[1]])), "S > 0"),
        (lambda m: m(np.array([[1]]), np.array([[12]])), "targets holds 12"),
        (lambda m: m(np.array([[1]])), "nothing to read"),
        (lambda m: m(np.array([[1]]), np.array([1, 2])), r"targets has shape \(2,\)"),
        (lambda m: m(np.array([[1]]), np.array([[1], [2]])), r"shape \(2, 1\), and the source"),
        (lambda m: m(np.array([[1]]), None, None, [[1], [2]]), "a row for each source"),
        (lambda m: generate(m, [[1] * 9]), "9 tokens, and the model reads at most 8"),
        (lambda m: generate(m, [[1]], max_new_tokens=9), "writes at most 8"),
        (lambda m: m.transformer(np.array([[1]])), "needs a source"),
        (lambda m: quantize(m), "cannot be quantized"),
        (lambda m: EncoderDecoderConfig(n_embd=10, n_head=3), "multiple of n_head"),
        (lambda m: EncoderDecoderConfig(vocab_size=3, pad_token_id=3), "pad_token_id is 3"),
        (
            lambda m: EncoderDecoderConfig.from_dict({"decoder_layers": 3}),
            "decoder_layers is 3 and encoder_layers is 12",
        ),
    ],
)
def test_wrong_input_is_one_line(call, said):
    with pytest.raises(UserError, match=said) as error:
        call(tiny())
    assert "\n" not in str(error.value)


def test_a_mask_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="attention_mask has shape"):
        tiny()(np.array([[1, 2]]), np.array([[1]]), np.array([[1]]))
    with pytest.raises(ValueError, match="rows of attention_mask differ in length"):
        tiny()(np.array([[1, 2], [3, 4]]), np.array([[1], [2]]), [[1, 1], [1]])


def test_the_commands(tmp_path, capsys):
    model = EncoderDecoder(EncoderDecoderConfig(**TINY | dict(vocab_size=256)))
    model.save_pretrained(tmp_path)
    save_tokenizer(ByteTokenizer(), tmp_path)
    assert npgpt("info", tmp_path) == 0
    assert "2 + 2" in capsys.readouterr().out
    assert npgpt("generate", "--model", tmp_path, "--prompt", "abc", "--max_new_tokens", 4,
                 "--num_beams", 2) == 0  # fmt: skip
    assert "abc" not in capsys.readouterr().out
    assert npgpt("step", "--model", tmp_path, "--text", "abc") != 0
    assert "encoder-decoder" in capsys.readouterr().err


def test_a_pass_is_written_as_a_script(tmp_path):
    model = tiny()
    with autograd.use_kernels(False), autograd.record():
        loss = model(np.array([[3, 4]]), np.array([[5, 1]]))[1]
    path = tmp_path / "script.py"
    autograd.to_source(autograd.stepper.trace(loss), path)
    run = subprocess.run([sys.executable, path], capture_output=True, text=True, check=True)
    name, _, value = run.stdout.split()[:3]
    assert name == "loss" and float(value) == pytest.approx(loss.item(), rel=1e-6)
