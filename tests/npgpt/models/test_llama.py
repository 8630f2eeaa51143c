"""Llama, Mistral and Qwen2: everything that works for a GPT works for them."""

import dataclasses
import json

import numpy as np
import pytest
from helpers import TEXT, Quiet, draw_model, npgpt, train_config

import autograd
from autograd import use_kernels
from autograd.testing import gradcheck
from npgpt import GPT, GPTConfig, UserError, generate, load_model
from npgpt.diagnostics.info import show
from npgpt.generation.quantize import quantize
from npgpt.models.cache import KVCache
from npgpt.models.llama import Llama, LlamaConfig
from npgpt.training.run import resume, start, train
from npgpt.weights.export import export

KINDS = {
    "llama": dict(model_type="llama", n_embd=24, n_head=4, n_kv_head=2),
    "mistral": dict(model_type="mistral", n_embd=24, n_head=4, n_kv_head=1, window_size=5),
    "qwen2": dict(model_type="qwen2", n_embd=24, n_head=2),
}
KIND = pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
KERNELS = pytest.mark.parametrize("kernels", [True, False], ids=["kernels", "numpy"])


# ---- gradients and texts


@KERNELS
@KIND
def test_every_parameters_gradient(options, kernels):
    model = draw_model(
        np.float64, **options | dict(n_layer=1, n_embd=8, n_positions=8, vocab_size=5)
    )
    ids = np.random.default_rng(0).integers(0, 5, (2, 7))
    for _, module in model.named_modules():
        for name, parameter in list(vars(module).items()):
            if isinstance(parameter, autograd.Tensor):

                def loss_of(weight, module=module, name=name):
                    setattr(module, name, weight)
                    return model(ids[:, :-1], targets=ids[:, 1:])[1]

                with use_kernels(kernels):
                    assert gradcheck(loss_of, [parameter], atol=1e-6, rtol=1e-6)
                setattr(module, name, parameter)


@KIND
def test_a_later_token_never_changes_an_earlier_logit(options):
    model = draw_model(np.float64, **options)
    ids = np.random.default_rng(0).integers(0, 66, (1, 12))
    before = model(ids)[0].numpy()
    ids[0, 7] += 1 if ids[0, 7] < 65 else -1
    after = model(ids)[0].numpy()
    assert np.array_equal(before[:, :7], after[:, :7]) and not np.allclose(before, after)


def test_a_score_depends_on_the_distance_alone():
    """All positions moved by 3: the same logits, since only differences of angles count."""
    model = draw_model(np.float64, **KINDS["llama"])
    ids = np.random.default_rng(0).integers(0, 66, (1, 9))
    moved = model(ids, position_ids=np.arange(3, 12))[0]
    np.testing.assert_allclose(moved.numpy(), model(ids)[0].numpy(), rtol=0, atol=1e-12)


@KERNELS
@pytest.mark.parametrize("bits", [32, 8])
@KIND
def test_the_cache_changes_no_text(options, bits, kernels):
    """Also where the text outgrows the first arrays of the cache, and then the context."""
    model = draw_model(**options | dict(n_positions=200))
    model = quantize(model) if bits == 8 else model
    options = dict(max_new_tokens=150, do_sample=True, seed=3)
    prompts = [np.array([1, 2, 3]), np.array([4])]
    with use_kernels(kernels):
        found = generate(model, prompts, **options)
        assert np.array_equal(found, generate(model, prompts, use_cache=False, **options))


def test_a_cache_grows_as_needed():
    model = draw_model(**KINDS["llama"] | dict(n_positions=4096))
    cache = KVCache(capacity=4096)
    with autograd.no_grad():
        model(np.arange(1, 61)[None], cache=cache)
        assert cache.keys[0].shape == (1, 2, 128, 6)  # two heads of keys
        for _ in range(5):
            last = model(np.arange(1, 61)[None], cache=cache)[0].numpy()[:, -1]
    assert cache.keys[0].shape == (1, 2, 512, 6) and cache.length == 360
    repeated = model(np.tile(np.arange(1, 61), 6)[None])[0].numpy()[:, -1]
    np.testing.assert_allclose(last, repeated, rtol=0, atol=1e-4)


# ---- training, files


@pytest.mark.parametrize("kind", KINDS)
def test_training_resumes_bit_for_bit(kind, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    window = None if kind == "llama" else 4
    fields = dict(model_type=kind, n_kv_head=1, window_size=window, lr_decay_iters=12)
    whole = start(train_config(str(text), tmp_path / "whole", **fields))
    assert type(whole.model) is Llama and whole.model.config.model_type == kind
    train(whole, Quiet(whole))
    part = start(train_config(str(text), tmp_path / "part", **fields, max_iters=4))
    train(part, Quiet(part))
    again = resume(part.folder, {"max_iters": 12})
    train(again, Quiet(again))
    for name, array in whole.model.state_dict().items():
        np.testing.assert_array_equal(array, again.model.state_dict()[name], err_msg=name)
    assert load_model(whole.folder).config == whole.model.config
    more = start(train_config(str(text), tmp_path / "more", init_from=str(whole.folder)))
    assert more.model.config == dataclasses.replace(whole.model.config)


def test_the_commands(tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    run = tmp_path / "run"
    sizes = "--n_layer=1 --n_embd=16 --n_head=4 --n_kv_head=2 --block_size=8 --max_iters=2"
    args = ["train", "--model_type=llama", *sizes.split(), f"--data={text}", f"--out_dir={run}"]
    assert npgpt(*args, "--eval_iters=1") == 0
    assert npgpt("generate", f"--model={run}", "--prompt=the ", "--max_new_tokens=5") == 0
    capsys.readouterr()
    assert npgpt("info", run) == 0
    assert "4 of 4, 2 of keys" in capsys.readouterr().out
    assert npgpt("step", "--model", run, "--help") == 0
    assert npgpt("train", "--model_type=llama", "--norm_position=post", f"--data={text}") == 2
    assert "leave norm_position out" in capsys.readouterr().err
    assert npgpt("train", "--n_kv_head=2", f"--data={text}") == 2
    assert "leave n_kv_head out" in capsys.readouterr().err


@KIND
def test_an_export_is_opened_by_transformers(options, oracle, tmp_path):
    from transformers import AutoModelForCausalLM

    from npgpt.tokenizers import ByteTokenizer, save_tokenizer

    model = draw_model(**options | dict(vocab_size=256))
    model.save_pretrained(tmp_path / "run")
    save_tokenizer(ByteTokenizer(), tmp_path / "run")
    export(tmp_path / "run", tmp_path / "out")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert theirs.config.model_type == options["model_type"]


# ---- configurations


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"n_head": 3}, "n_embd must be a multiple of n_head"),
        ({"n_embd": 12, "n_head": 4}, "a head has 3 channels"),
        ({"n_head": 4, "n_kv_head": 3}, "n_head is 4 and n_kv_head 3"),
        ({"n_kv_head": 0}, "n_kv_head is 0"),
        ({"window_size": 4}, "llama has no window_size"),
        ({"model_type": "mistral", "attention_bias": True}, "mistral does not choose its biases"),
        ({"model_type": "mistral", "window_size": 4, "max_window_layers": 1}, "qwen2 has"),
        ({"model_type": "gemma"}, "model_type must be 'llama' or"),
        ({"rope_theta": 0.5}, "rope_theta"),
        ({"rope_scaling": {"rope_type": "longrope"}}, "rope_type 'longrope'; known are linear"),
        ({"rope_scaling": {"rope_type": [1]}}, "known are linear"),
        ({"rope_scaling": {"rope_type": "linear"}}, "rope_scaling lacks the key 'factor'"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 0.5}}, "factor is 0.5"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": "2"}}, "factor must be a number"),
        (
            {"rope_scaling": dict(rope_type="llama3", factor=2, low_freq_factor=4,
                                  high_freq_factor=4)},
            "expected a larger second",
        ),
    ],
)  # fmt: skip
def test_wrong_configurations(fields, message):
    with pytest.raises(UserError, match=message):
        LlamaConfig(**dict(n_embd=32, n_head=4) | fields)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_layers": 10**5}, "too few for the 100000 layers"),
        ({"rope_parameters": [1]}, "rope_parameters"),
        ({"rope_parameters": {"rope_theta": "x"}}, "rope_theta"),
        (
            {"rope_parameters": {"full_attention": {"rope_theta": 1e6}}},
            "rope_parameters has values of its own for .full_attention.",
        ),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor is 0.5"),
        ({"partial_rotary_factor": [1]}, "partial_rotary_factor is"),
        ({"hidden_size": 2**28, "num_attention_heads": 2, "head_dim": None}, "expected"),
        ({"num_key_value_heads": 4}, "expected"),
        ({"hidden_act": "relu6"}, "activation_function"),
        ({"layer_types": ["sliding_attention", "full_attention"]}, "full_attention after"),
        ({"layer_types": "x"}, "layer_types"),
    ],
)
def test_a_wrong_file_ends_in_one_message(changes, message, tmp_path):
    draw_model(**KINDS["qwen2"] | dict(window_size=4, n_head=4, n_kv_head=2)).save_pretrained(
        tmp_path
    )
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(UserError, match=message) as error:
        load_model(tmp_path)
    assert "\n" not in str(error.value)


def test_the_page_of_smollm2():
    page = show(["smollm2-135m", "gpt2"])
    assert "9 of 64, 3 of keys" in page and "8,192, rotary 100,000" in page
    assert "1,536, gated silu" in page and "pre, RMS" in page
    assert "last 4,096" in show(["mistral-7b"]) and "query, key, value" in show(["qwen2-0.5b"])


def test_a_configuration_of_another_class():
    with pytest.raises(UserError, match="GPT takes a GPTConfig, and this is a LlamaConfig"):
        GPT(LlamaConfig(n_layer=1))
    with pytest.raises(UserError, match="Llama takes a LlamaConfig, and this is a GPTConfig"):
        Llama(GPTConfig(n_layer=1))


def test_attention_alone_says_what_it_needs():
    model = draw_model(**KINDS["llama"])
    with pytest.raises(ValueError, match="context.rotation"):
        model.transformer.h[0](autograd.tensor(np.ones((1, 2, 24), np.float32)))
