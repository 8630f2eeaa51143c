"""Forms of weights: fake quantization, zeros that stay, their runs, and what is refused."""

import numpy as np
import pytest
from helpers import TEXT, Quiet, draw_model, npgpt, same_runs, train_config
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from autograd.reading import read_tensors
from npgpt import GPT, GPTConfig, UserError, generate, load_model
from npgpt.evaluation.loss import whole_loss
from npgpt.models.bert import Bert, BertConfig
from npgpt.models.layers import Weighted
from npgpt.models.lora import merged_state
from npgpt.training.config import TrainConfig
from npgpt.training.interrupt import Interrupted
from npgpt.training.replay import Replay
from npgpt.training.run import resume, start, train
from npgpt.weights.export import export_gguf
from npgpt.weights.forms import fake_quantize, keep_zeros, round_rows

KINDS = ("Q4_0", "Q4_1", "Q8_0")
MODELS = {
    "gpt": dict(n_embd=64, n_head=2),
    "gpt, untied, odd MLP": dict(n_embd=32, n_inner=40, tie_word_embeddings=False, bias=False),
    "llama": dict(model_type="llama", n_embd=64, n_head=4, n_kv_head=2, pad_token_id=3),
}
RANDOM = np.random.default_rng(2)
BATCH = tuple(RANDOM.integers(66, size=(3, 9)) for _ in range(2))


def set_to_rounded(model):
    """Return the same model with its weights rounded, and no form."""
    state = {name: array.copy() for name, array in merged_state(model).items()}
    for _, module in model.named_modules():
        if isinstance(module, Weighted):
            module.form = None
    model.load_state_dict(state)
    return model


# ---- the numbers


@pytest.mark.parametrize("kind", ["Q4_0", "Q8_0"])
@given(rows=arrays(np.float32, (2, 64), elements=st.floats(-1e4, 1e4, width=16)))
def test_rounding_twice_is_rounding_once(kind, rows):
    once = round_rows(rows, kind)
    np.testing.assert_array_equal(round_rows(once, kind), once)


@pytest.mark.parametrize("kind", KINDS)
def test_normal_weights_are_rounded_once(kind):
    rows = RANDOM.standard_normal((200, 96)).astype(np.float32) * 0.02
    once = round_rows(rows, kind)
    np.testing.assert_array_equal(round_rows(once, kind), once)
    n_levels = max(len(np.unique(block)) for block in once.reshape(-1, 32))
    assert n_levels <= 32 if kind == "Q8_0" else n_levels <= 16
    assert 0 < np.abs(once - rows).max() < np.abs(rows).max() / {"Q8_0": 200}.get(kind, 10)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", MODELS)
def test_a_gguf_file_has_the_weights_that_the_model_uses(name, kind, tmp_path):
    model = draw_model(**MODELS[name] | dict(vocab_size=256))
    fake_quantize(model, kind)
    logits = model(BATCH[0])[0].numpy()
    new = generate(model, BATCH[0][0, :4], max_new_tokens=6)
    save_run(model, tmp_path)
    set_to_rounded(model)
    np.testing.assert_array_equal(model(BATCH[0])[0].numpy(), logits)
    np.testing.assert_array_equal(generate(model, BATCH[0][0, :4], max_new_tokens=6), new)
    export_gguf(tmp_path, tmp_path / "model.gguf", kind)
    there = load_model(tmp_path / "model.gguf").state_dict()
    for parameter, array in model.state_dict().items():
        np.testing.assert_array_equal(there[parameter], array)


def save_run(model, folder):
    from npgpt.tokenizers import ByteTokenizer, save_tokenizer

    model.save_pretrained(folder)
    save_tokenizer(ByteTokenizer(), folder)


# ---- the gradient


@pytest.mark.parametrize("name", MODELS)
def test_the_gradient_is_that_at_the_rounded_weights(name):
    used, plain = (draw_model(np.float64, **MODELS[name]) for _ in range(2))
    fake_quantize(used, "Q4_0")
    fake_quantize(plain, "Q4_0")
    set_to_rounded(plain)
    losses = [model(*BATCH)[1] for model in (used, plain)]
    assert losses[0].item() == losses[1].item()
    for loss in losses:
        loss.backward()
    for (name, ours), theirs in zip(used.named_parameters(), plain.parameters(), strict=True):
        np.testing.assert_allclose(
            ours.grad.numpy(), theirs.grad.numpy(), rtol=1e-10, atol=1e-14, err_msg=name
        )


@pytest.mark.parametrize("kind", [None, "Q4_0"])
def test_zeros_stay_zero(kind):
    model = draw_model(**MODELS["gpt"])
    weight = model.transformer.h[1].mlp.c_proj.weight
    weight.data[::3] = 0
    if kind:
        fake_quantize(model, kind)
    keep_zeros(model)
    model(*BATCH)[1].backward()
    assert not weight.grad.numpy()[::3].any()
    assert weight.grad.numpy()[1::3].all()
    assert not model.transformer.h[1].mlp.c_proj.used_weight().numpy()[::3].any()


# ---- runs


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return str(path)


def quantized(text, folder, **changes):
    return start(train_config(text, folder, n_embd=32, tokenizer="byte", fake_quantize="Q4_0",
                              **changes))  # fmt: skip


def test_a_packed_model_has_the_loss_that_the_run_has_shown(text, tmp_path):
    run = quantized(text, tmp_path / "run", eval_interval=12)
    train(run, Quiet(run))
    validation = run.task.splits[1]
    shown = whole_loss(run.model.eval(), validation)
    export_gguf(run.folder, tmp_path / "model.gguf", "Q4_0")
    found = whole_loss(load_model(run.folder), validation)
    assert found == shown == whole_loss(load_model(tmp_path / "model.gguf"), validation)
    packed = load_model(tmp_path / "model.gguf", packed=True)
    assert whole_loss(packed, validation) == pytest.approx(shown, rel=1e-6)
    latent = read_tensors(run.folder / "state.safetensors")[0]
    name = "transformer.h.0.mlp.c_fc.weight"
    ours = load_model(run.folder).state_dict()[name]
    np.testing.assert_array_equal(round_rows(latent[name].T, "Q4_0").T, ours)
    assert (latent[name] != ours).any()


def test_an_interrupted_run_is_the_run_without_a_break(text, tmp_path):
    whole = quantized(text, tmp_path / "whole")
    train(whole, Quiet(whole))
    part = quantized(text, tmp_path / "part")
    with pytest.raises(Interrupted):
        train(part, Quiet(part, interrupt_at=6))
    again = resume(part.folder, {})
    train(again, Quiet(again))
    same_runs(whole.folder, again.folder)
    replay = Replay(again.folder, 5, 6)
    replay.seek(6)
    with pytest.raises(UserError, match="fake_quantize is Q4_0 in the run"):
        resume(part.folder, {"fake_quantize": None})


def test_a_run_keeps_zeros(text, tmp_path):
    first = start(train_config(text, tmp_path / "first", max_iters=2))
    train(first, Quiet(first))
    model = load_model(first.folder)
    model.transformer.h[0].attn.c_attn.weight.data[:5] = 0
    save_run(model, tmp_path / "zeros")
    for name in ("tokenizer.json",):
        (tmp_path / "zeros" / name).write_bytes((first.folder / name).read_bytes())
    run = start(train_config(text, tmp_path / "run", init_from=str(tmp_path / "zeros"),
                             keep_zeros=True, max_iters=6))  # fmt: skip
    train(run, Quiet(run))
    found = load_model(run.folder).transformer.h[0].attn.c_attn.weight.numpy()
    assert not found[:5].any()
    assert found[5:].all()


# ---- what is refused


@pytest.mark.parametrize(
    "model",
    [
        Bert(BertConfig(vocab_size=9, n_positions=8, n_embd=32, n_layer=1, n_head=2)),
        GPT(GPTConfig(9, 8, n_embd=32, n_layer=1, n_head=2, labels=("a", "b"))),
    ],
)
def test_models_that_no_gguf_file_can_hold_are_refused(model):
    with pytest.raises(UserError, match="such a file can hold a GPT-2"):
        fake_quantize(model, "Q4_0")


def test_heads_of_a_pruned_model_must_fill_blocks():
    with pytest.raises(UserError, match="have 48 channels together"):
        fake_quantize(GPT(GPTConfig(9, 8, n_embd=64, n_layer=1, n_head=3, head_dim=16)), "Q4_0")


@pytest.mark.parametrize("keys", [{"fake_quantize": "Q4_0"}, {"keep_zeros": True}])
def test_lora_has_no_whole_weights(keys):
    with pytest.raises(UserError, match="drop one of the two"):
        TrainConfig(init_from="a model", lora_r=2, **keys)


def test_an_unknown_type_is_one_line(text, tmp_path, capsys):
    words = ["--data", text, "--out_dir", tmp_path / "new"]
    assert npgpt("train", *words, "--fake_quantize=Q5_0") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "Q4_0" in error
    assert not (tmp_path / "new").exists()
