"""What is trained: the head, the last layers or LoRA's matrices; what is frozen costs nothing."""

import numpy as np
import pytest
from helpers import Quiet, npgpt, same_runs, train_config
from test_classification import bert_folder, example

from npgpt import GPT, GPTConfig, UserError, load_model
from npgpt.models.lora import adapted_layers, remove_lora
from npgpt.tokenizers import ByteTokenizer, save_tokenizer
from npgpt.training.config import TrainConfig
from npgpt.training.data import END
from npgpt.training.follow import by_sequence
from npgpt.training.interrupt import Interrupted
from npgpt.training.run import resume, start, train
from npgpt.weights.adapters import load_adapter

CHOICES = {
    "head": dict(train_layers=0),
    "last": dict(train_layers=1),
    "lora": dict(lora_r=2, lora_alpha=4.0, lora_dropout=0.1),
}


@pytest.fixture
def table(tmp_path):
    rows = ["\t".join(example(n)) for n in range(60)]
    (tmp_path / "films.tsv").write_text("\n".join(rows) + "\n")
    return str(tmp_path / "films.tsv")


def base_of(kind, folder):
    """Write a small model of two layers; return its folder."""
    if kind == "bert":
        return bert_folder(folder, n_layer=2)
    config = GPTConfig(257, 24, n_embd=16, n_layer=2, n_head=2, initializer_range=0.1)
    GPT(config, seed=3).save_pretrained(folder)
    save_tokenizer(ByteTokenizer([END]), folder)
    return str(folder)


def config_of(table, folder, base, **changes):
    keys = dict(task="classification", batch_size=6, sample_tokens=0, dropout=0.1, n_layer=2)
    keys |= dict(n_embd=16, n_head=2, block_size=24, tokenizer="char", init_from=base)
    return train_config(table, folder, **keys | changes)


def begin(kind, choice, table, tmp_path, name="run"):
    if not (tmp_path / kind).exists():
        base_of(kind, tmp_path / kind)
    base = str(tmp_path / kind)
    tokenizer = "byte" if kind == "gpt" else "char"
    return start(config_of(table, tmp_path / name, base, tokenizer=tokenizer, **CHOICES[choice]))


def nodes_below(tensor):
    """Return all nodes of the tape that a backward pass from a tensor visits."""
    found, stack = {}, [tensor._node]
    while stack:
        node = stack.pop()
        if node is not None and id(node) not in found:
            found[id(node)] = node
            if node.selects:  # one output of an op with several
                stack.append(node.selects[0])
            stack += [parent for _, _, parents in node.steps or () for parent in parents]
    return list(found.values())


def trained_names(run):
    return {name for name, p in run.model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("kind", ["bert", "gpt"])
def test_the_chosen_parameters_are_trained(kind, table, tmp_path):
    heads = {
        "bert": {"pooler.weight", "pooler.bias", "label_head.weight", "label_head.bias"},
        "gpt": {"label_head.weight"},
    }[kind]
    found = {choice: begin(kind, choice, table, tmp_path, choice) for choice in CHOICES}
    assert trained_names(found["head"]) == heads
    last = {name for name in trained_names(found["last"]) if name.startswith("transformer.h.1.")}
    norm = {"transformer.ln_f.weight", "transformer.ln_f.bias"} if kind == "gpt" else set()
    assert trained_names(found["last"]) == heads | last | norm and len(last) == (
        16 if kind == "bert" else 12
    )
    matrices = {name for name in trained_names(found["lora"]) if ".adapter.lora_" in name}
    assert trained_names(found["lora"]) == heads | matrices
    assert len(matrices) == (8 if kind == "bert" else 4)  # queries and values, or c_attn


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("kind", ["bert", "gpt"])
def test_what_is_frozen_costs_no_gradient_and_no_state(kind, choice, table, tmp_path):
    """The tape has no node of a frozen layer below; the optimizer has means of no frozen array."""
    run = begin(kind, choice, table, tmp_path)
    before = {name: array.copy() for name, array in run.model.state_dict().items()}
    _, loss = run.task.objective(run.model)(*run.task.batches(0)[0])
    trained = trained_names(run)
    leaves = {id(p._node) for name, p in run.model.named_parameters() if name in trained}
    nodes = nodes_below(loss)
    assert {id(node) for node in nodes if node.op is None} == leaves
    assert {node.op.name for node in nodes if node.op} & {"attention"} == (
        set() if choice == "head" else {"attention"}
    )
    if choice == "last":  # one block's attention alone
        assert sum(node.op is not None and node.op.name == "attention" for node in nodes) == 1
    run.update()
    state = run.optimizer.state_dict()
    assert {name.partition(".")[2] for name in state} == trained
    for name, array in run.model.state_dict().items():
        is_changed = not np.array_equal(array, before[name])
        assert is_changed <= (name in trained), name
        assert is_changed or name not in trained or name.endswith("lora_A"), name


@pytest.mark.parametrize("choice", CHOICES)
def test_a_run_that_is_interrupted_goes_on_as_if_it_were_not(choice, table, tmp_path):
    whole = begin("bert", choice, table, tmp_path, "whole")
    train(whole, Quiet(whole))
    run = begin("bert", choice, table, tmp_path, "run")
    with pytest.raises(Interrupted):
        train(run, Quiet(run, interrupt_at=6))
    again = resume(tmp_path / "run", {})
    train(again, Quiet(again))
    same_runs(tmp_path / "whole", tmp_path / "run")


def test_known_states_are_those_of_the_whole_model(table, tmp_path):
    """The head on states that are known computes the loss of the whole model, in evaluation."""
    for kind in ("bert", "gpt"):
        run = begin(kind, "head", table, tmp_path, f"run of {kind}")
        run.model.eval()
        for batch in run.task.batches(0):
            logits, loss = run.task.objective(run.model)(*batch)
            expected, whole = run.model(*batch)
            np.testing.assert_allclose(logits.numpy(), expected.numpy(), rtol=1e-4, atol=1e-5)
            assert loss.item() == pytest.approx(whole.item(), rel=1e-4)
        name, index = "label_head.weight", (1, 2)
        run.model.train()
        run.backward()
        gradient = run.optimizer.parameters[name].grad.numpy()[index]
        assert sum(by_sequence(run, name, index)) == pytest.approx(gradient, rel=1e-3, abs=1e-7)


def test_the_states_are_computed_once(table, tmp_path, monkeypatch):
    run = begin("bert", "head", table, tmp_path)
    seen = []
    body = type(run.model.transformer)
    forward = body.forward
    monkeypatch.setattr(
        body, "forward", lambda self, ids, *more, **others: seen.append(len(ids))
        or forward(self, ids, *more, **others),
    )  # fmt: skip
    for _ in range(12):  # more than one epoch
        run.update()
    run.task.metrics(run.model, 12)
    assert sum(seen) == len(run.task.rows)


def test_the_folder_holds_the_merged_model_and_the_matrices(table, tmp_path):
    run = begin("bert", "lora", table, tmp_path)
    for _ in range(5):
        run.update()
    run.save_best()
    batch = run.task.batches(0)[0]
    run.model.eval()
    expected = run.model(*batch)[0].numpy()
    merged = load_model(run.folder)
    assert not any(adapted_layers(merged))
    np.testing.assert_allclose(merged(*batch)[0].numpy(), expected, rtol=1e-4, atol=1e-5)
    fresh = begin("bert", "last", table, tmp_path, "other").model.eval()  # with another head
    again = load_adapter(fresh, run.folder / "adapter")
    np.testing.assert_allclose(again(*batch)[0].numpy(), expected, rtol=1e-5, atol=1e-6)
    assert fresh.lora_config.modules_to_save and fresh.lora_config.r == 2
    np.testing.assert_allclose(
        remove_lora(again)(*batch)[0].numpy(), expected, rtol=1e-4, atol=1e-5
    )


def test_the_command_shows_what_is_trained(table, tmp_path, capsys):
    base = base_of("bert", tmp_path / "base")
    args = ["--train", table, "--model", base, "--block_size", 24, "--max_iters", 2]
    args += ["--batch_size", 6, "--sample_tokens", 0]
    assert npgpt("finetune", "classification", *args, "--out_dir", tmp_path / "a", "--lora_r", 2,
                 "--target_modules", "query") == 0  # fmt: skip
    out = capsys.readouterr().out
    assert "trained: 451 parameters (LoRA of q_proj, pooler, label_head); frozen: " in out
    assert sorted(path.name for path in (tmp_path / "a" / "adapter").iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors",
    ]  # fmt: skip
    again = [*args, "--out_dir", tmp_path / "a", "--overwrite", "--train_layers", 0]
    assert npgpt("finetune", "classification", *again) == 0
    assert "trained: 323 parameters (pooler, label_head); frozen: " in capsys.readouterr().out
    assert not (tmp_path / "a" / "adapter").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(train_layers=3), "--train_layers is 3, and the model has 2 layers"),
        (dict(train_layers=1, lora_r=2), "drop one of them"),
        (dict(lora_alpha=2.0), "add --lora_r"),
        (dict(lora_r=2, target_modules=("qery",)), "'qery'.*did you mean|'qery'"),
        (dict(train_layers=0, init_from="scratch"), "this one is new"),
        (dict(lora_r=2, init_from="scratch"), "this one is new"),
    ],
)
def test_wrong_choices(table, tmp_path, changes, message):
    base = base_of("bert", tmp_path / "base")
    with pytest.raises(UserError, match=message) as error:
        start(config_of(table, tmp_path / "run", **{"base": base} | changes)
              if "init_from" not in changes else
              config_of(table, tmp_path / "run", changes.pop("init_from"), **changes))  # fmt: skip
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_tied_head_alone_is_nothing_to_train(tmp_path):
    base = base_of("gpt", tmp_path / "base")
    (tmp_path / "text.txt").write_text("some text " * 40)
    config = TrainConfig(
        data=(str(tmp_path / "text.txt"),), init_from=base, train_layers=0, block_size=8,
        out_dir=str(tmp_path / "run"), tokenizer="byte",
    )  # fmt: skip
    with pytest.raises(UserError, match="train one layer or more"):
        start(config)
