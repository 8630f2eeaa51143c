"""Pruning: importance, what is removed, the command and its models, and what is refused."""

import re

import numpy as np
import pytest
from helpers import TEXT, Quiet, draw_model, npgpt, train_config

import autograd
from npgpt import GPTConfig, UserError, generate, load_model
from npgpt.models.bert import Bert, BertConfig
from npgpt.tokenizers import ByteTokenizer, make_tokenizer, save_tokenizer
from npgpt.training.data import Batch
from npgpt.training.pruning import (
    Parts,
    count_parts,
    gate_derivatives,
    matrices_of,
    measure_importance,
    remove_parts,
    units_of,
)
from npgpt.training.run import resume, start, train
from npgpt.weights.export import export, export_gguf

LLAMA = dict(model_type="llama", n_embd=24, n_head=6, n_kv_head=3, mlp_bias=True)
MODELS = {
    "gpt": dict(n_embd=24, n_head=4, n_layer=3),
    "gpt without biases": dict(n_embd=24, n_head=4, n_layer=3, bias=False, n_inner=20),
    "llama": LLAMA | dict(n_layer=3, attention_bias=True),
    "qwen2": dict(model_type="qwen2", n_embd=24, n_head=4, n_kv_head=2, n_layer=3),
}
RANDOM = np.random.default_rng(1)
BATCH = Batch(*(RANDOM.integers(66, size=(3, 9)) for _ in range(2)))


def readers(model, layer):
    """The linear layers that read heads and channels of a layer, with the numbers of these."""
    modules = dict(model.transformer.h[layer].named_modules())
    return [
        (modules[units.reader], n)
        for units, n in zip(units_of(model.config), count_parts(model.config), strict=False)
    ]


def gated(model, kind, layer, unit, gate):
    """Multiply what a head (0), a channel (1) or a layer (2) computes, in a model, by a number."""
    for number, (reader, n) in enumerate(readers(model, layer)):
        if kind == 2:
            reader.weight.data[...] *= gate
            if reader.bias is not None:
                reader.bias.data[...] *= gate
        elif kind == number:
            rows = np.arange(reader.weight.shape[0]).reshape(n, -1)[unit]
            reader.weight.data[rows] *= gate
    return model


def loss_of(model):
    return model(*BATCH)[1].item()


# ---- importance


@pytest.mark.parametrize("name", MODELS)
def test_a_gate_derivative_is_that_of_differences(name):
    model = draw_model(np.float64, **MODELS[name])
    model(*BATCH)[1].backward()
    found, h = gate_derivatives(model), 1e-4
    for kind, layer, unit in [(0, 0, 0), (0, 2, 1), (1, 1, 3), (1, 2, 19), (2, 0, 0), (2, 2, 0)]:
        up, down = (
            loss_of(gated(draw_model(np.float64, **MODELS[name]), kind, layer, unit, gate))
            for gate in (1 + h, 1 - h)
        )
        ours = found[kind][layer] if kind == 2 else found[kind][layer, unit]
        assert ours == pytest.approx((up - down) / (2 * h), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_importance_is_the_change_of_the_loss_where_a_part_adds_little(kind):
    weak = gated(draw_model(np.float64, **MODELS["gpt"]), kind, 1, 2, 1e-4)
    found = measure_importance(weak, [BATCH])[kind][1]
    importance = found if kind == 2 else found[2]
    before = loss_of(weak)
    change = loss_of(gated(weak, kind, 1, 2, 0.0)) - before
    assert abs(change) == pytest.approx(importance, rel=1e-2)
    assert importance > 1e-7


def test_importance_is_the_mean_over_batches_of_absolute_values():
    model = draw_model(np.float64, **MODELS["gpt"])
    batches = [Batch(*(part[i : i + 1] for part in BATCH[:2])) for i in range(3)]
    each = [measure_importance(model, [batch]) for batch in batches]
    none = Batch(BATCH.inputs[:1], np.full((1, 9), -100))
    found = measure_importance(model, [none, *batches])
    for kind in range(3):
        expected = np.mean([parts[kind] for parts in each], axis=0)
        np.testing.assert_allclose(found[kind], expected, rtol=1e-12)
        assert (found[kind] > 0).all()
    assert all(parameter.grad is None for parameter in model.parameters())


# ---- what is removed


def prune_as(model, **keep):
    """Return a pruned model, and the whole model in which the same parts are multiplied by 0."""
    keep = count_parts(model.config)._replace(**keep)
    importance = Parts(
        *(np.random.default_rng(3).permuted(np.arange(x.size)).reshape(x.shape) + 1.0
          for x in measure_importance(model, [BATCH]))
    )  # fmt: skip
    small = remove_parts(model, keep, importance)
    for layer in range(model.config.n_layer):
        for kind in (0, 1):
            for unit in np.argsort(importance[kind][layer])[: -keep[kind]]:
                gated(model, kind, layer, unit, 0.0)
    for layer in np.argsort(importance.layers)[: -keep.layers]:
        gated(model, 2, layer, 0, 0.0)
    return small, model


@pytest.mark.parametrize("keep", [{"heads": 1}, {"channels": 7}, {"layers": 2},
                                  {"heads": 1, "channels": 5, "layers": 1}])  # fmt: skip
@pytest.mark.parametrize("name", MODELS)
def test_a_pruned_model_is_the_model_whose_parts_are_zero(name, keep):
    small, zeroed = prune_as(draw_model(np.float64, **MODELS[name]), **keep)
    assert count_parts(small.config)._asdict().items() >= keep.items()
    assert small.n_parameters() < zeroed.n_parameters()
    ours, theirs = (model(BATCH.inputs)[0].numpy() for model in (small, zeroed))
    np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-12)


def test_the_most_important_parts_stay():
    model = draw_model(np.float64, **MODELS["gpt"])
    importance = Parts(np.tile([1.0, 4.0, 3.0, 2.0], (3, 1)), np.ones((3, 96)), np.array([2, 1, 3]))
    small = remove_parts(model, Parts(2, 96, 2), importance)
    old, new = (m.transformer.h[i].attn.c_proj.weight.numpy() for m, i in ((model, 2), (small, 1)))
    np.testing.assert_array_equal(new, old.reshape(4, 6, 24)[1:3].reshape(12, 24))


@pytest.mark.parametrize("kernels", [True, False])
@pytest.mark.parametrize("name", ["gpt", "llama"])
def test_a_pruned_model_generates(name, kernels, tmp_path):
    small, zeroed = prune_as(draw_model(**MODELS[name]), heads=1, channels=32, layers=2)
    small.save_pretrained(tmp_path)
    ids = BATCH.inputs[0, :4]
    with autograd.use_kernels(kernels):
        new, old = (generate(model, ids, max_new_tokens=8) for model in (small, zeroed))
        again = generate(load_model(tmp_path), ids, max_new_tokens=8)
    np.testing.assert_array_equal(new, old)
    np.testing.assert_array_equal(new, again)


def test_an_exported_gpt_has_its_heads_back_as_zeros(tmp_path):
    small, _ = prune_as(draw_model(**MODELS["gpt without biases"], vocab_size=256), heads=3)
    assert small.config.model_type == "npgpt"
    small.save_pretrained(tmp_path / "small")
    save_tokenizer(ByteTokenizer(), tmp_path / "small")
    export(tmp_path / "small", tmp_path / "exported")
    export_gguf(tmp_path / "small", tmp_path / "small.gguf")
    logits = small(BATCH.inputs)[0].numpy()
    for path in (tmp_path / "exported", tmp_path / "small.gguf"):
        found = load_model(path)
        assert (found.config.model_type, found.config.n_head) == ("gpt2", 4)
        np.testing.assert_allclose(found(BATCH.inputs)[0].numpy(), logits, rtol=1e-5, atol=1e-5)


# ---- the command


@pytest.fixture
def trained(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    run = start(train_config(str(text), tmp_path / "run", max_iters=30))
    train(run, Quiet(run))
    return str(run.folder), str(text)


def test_the_command_prunes_in_rounds(trained, tmp_path, capsys):
    folder, text = trained
    out = tmp_path / "out"
    shares = ["--heads=0.5", "--channels=0.5", "--layers=0.5", "--rounds=2", "--samples=5"]
    words = [
        "--max_iters=3",
        "--eval_iters=1",
        "--batch_size=4",
        "--out_dir",
        out,
        "--teacher",
        folder,
    ]
    assert npgpt("prune", "--model", folder, "--data", text, *shares, *words) == 0
    said = capsys.readouterr().out
    table = (out / "pruning.md").read_text()
    assert table in said
    rows = [line.split("|")[1:-1] for line in table.splitlines()[2:]]
    sizes = [load_model(each).n_parameters() for each in (folder, out / "tuned-1", out / "tuned-2")]
    assert [int(row[1].replace(",", "")) for row in rows] == sizes
    assert sizes[0] > sizes[1] > sizes[2]
    assert rows[-1][0].strip() == "layers 1, heads 1, channels 32"
    assert (out / "size.svg").read_text().startswith("<svg")
    assert (out / "speed.svg").read_text().count("<polyline") == 2
    last = out / "tuned-2"
    again = resume(last, {"max_iters": 5})
    train(again, Quiet(again))
    assert load_model(last).config == load_model(out / "pruned-2").config
    assert npgpt("generate", "--model", last, "--prompt=the", "--max_new_tokens=3") == 0
    assert npgpt("look", "attribution", "--model", last, "--text=the") == 0
    assert npgpt("info", last) == 0
    assert npgpt("step", "--run", last, "--at=2", "--html", tmp_path / "step.html") == 0


def test_small_weights_become_zero_and_stay(trained, tmp_path, capsys):
    folder, text = trained
    words = ["--weights=0.8", "--rounds=2", "--max_iters=4", "--out_dir", tmp_path / "out"]
    assert npgpt("prune", "--model", folder, "--data", text, *words) == 0
    whole = matrices_of(load_model(folder))
    cut, tuned, last = (
        matrices_of(load_model(tmp_path / "out" / name))
        for name in ("pruned-1", "tuned-1", "tuned-2")
    )
    for old, first, then, end in zip(whole, cut, tuned, last, strict=True):
        assert np.count_nonzero(first == 0) == round(0.4 * old.size)
        assert np.abs(old[first == 0]).max() <= np.abs(old[first != 0]).min()
        np.testing.assert_array_equal(first == 0, then == 0)
        assert (first != then).any()
        assert np.count_nonzero(end == 0) == round(0.8 * old.size)
    assert "zeros 80%" in (tmp_path / "out" / "pruning.md").read_text()


def test_without_fine_tuning_the_model_is_the_cut_one(trained, tmp_path, capsys):
    folder, text = trained
    words = ["--channels=0.25", "--max_iters=0", "--out_dir", tmp_path / "out"]
    assert npgpt("prune", "--model", folder, "--data", text, *words) == 0
    assert load_model(tmp_path / "out" / "pruned-1").config.n_inner == 48
    assert not (tmp_path / "out" / "tuned-1").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "there is no model"),
        (["--model", "MODEL"], "nothing is to be removed"),
        (["--model", "MODEL", "--heads=1"], "all of the 2 heads .* in each layer: .* 0.5 to 0.5"),
        (
            ["--model", "MODEL", "--layers=0.9"],
            "all of the 2 layers that the model has: give a share",
        ),
        (["--model", "MODEL", "--channels=1.5"], "channels"),
        (["--model", "MODEL", "--heads=-1"], "heads"),
        (["--model", "MODEL", "--heads=0.1"], "removes none of the 2 heads"),
        (["--model", "MODEL", "--weights=1"], "--weights 1 sets all weights to zero"),
        (["--model", "MODEL", "--heads=0.5", "--rounds=0"], "rounds"),
        (["--model", "nowhere", "--heads=0.5"], "nowhere"),
        (["--model", "MODEL", "--heads=0.5", "--init_from=x"], "--init_from is --model here"),
        (["--model", "MODEL", "--heads=0.5", "--eval_only"], "prunes nothing"),
        (["--model", "MODEL", "--heads=0.5", "--n_layer=1"], "n_layer is 1"),
        (["--model", "BERT", "--heads=0.5"], "only a GPT, a Llama, a Mistral"),
        (["--model", "POST", "--layers=0.5"], "post-norm"),
        (["--model", "WINDOW", "--layers=0.5"], "has a window"),
        (["--model", "ONE", "--heads=0.5"], "has one of its heads in each layer: leave out"),
    ],
)
def test_what_cannot_be_pruned_is_refused_in_one_line(words, said, trained, tmp_path, capsys):
    folder, text = trained
    sizes = dict(vocab_size=29, n_positions=8, n_embd=16, n_layer=2, n_head=2)
    others = {"BERT": dict(), "POST": dict(norm_position="post"), "WINDOW": dict(window_size=4),
              "ONE": dict(n_head=1)}  # fmt: skip
    names = {"MODEL": folder}
    for name, fields in others.items():
        if name in words:
            names[name] = str(tmp_path / name)
            model = Bert(BertConfig(**sizes)) if name == "BERT" else draw_model(**sizes | fields)
            model.save_pretrained(names[name])
            save_tokenizer(make_tokenizer("char", TEXT), names[name])
    words = [names.get(word, word) for word in words]
    assert npgpt("prune", *words, "--data", text, "--out_dir", tmp_path / "new") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(said, error)
    assert not (tmp_path / "new").exists()


def test_mpirun_is_refused(monkeypatch, capsys):
    monkeypatch.setattr("npgpt.commands.prune.launched_rank", lambda: 1)
    assert npgpt("prune", "--model", "anything") == 2
    assert "not for mpirun" in capsys.readouterr().err


@pytest.mark.parametrize("fields", [{"head_dim": 5}, {"head_dim": 8}, {"head_dim": 2**27}])
def test_a_pruned_gpt_has_some_of_its_heads(fields):
    with pytest.raises(UserError, match="n_head at most n_embd / head_dim"):
        GPTConfig(n_embd=24, n_head=4, **fields)
    config = GPTConfig(n_embd=24, n_head=2, head_dim=6)
    assert GPTConfig.from_dict(config.to_dict()) == config
    assert "head_dim" not in GPTConfig(n_embd=24, n_head=4, head_dim=6).to_dict()
