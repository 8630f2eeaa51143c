"""LoRA: adding, merging, and peft's files; peft itself is in test_oracle_adapters.py."""

import json

import numpy as np
import pytest
from helpers import gguf_llama, write_gguf

import autograd
from autograd.testing import gradcheck
from npgpt import GPT, GPTConfig, TrainConfig, UserError, generate, load_model
from npgpt.generation.quantize import quantize
from npgpt.models.llama import Llama, LlamaConfig
from npgpt.models.lora import LoraConfig, adapted_layers, merge_lora, remove_lora, unmerge_lora
from npgpt.tokenizers import ByteTokenizer, save_tokenizer
from npgpt.training.run import start
from npgpt.weights.adapters import add_lora, load_adapter, save_adapter
from npgpt.weights.export import export

IDS = np.array([[1, 2, 3, 4], [5, 6, 7, 0]])
SIZES = dict(vocab_size=9, n_positions=8, n_embd=8, n_layer=2, n_head=2)


@pytest.fixture(params=["gpt", "llama"])
def model(request):
    return noisy(GPT(GPTConfig(**SIZES), dtype=np.float64)) if request.param == "gpt" else llama()


def llama():
    return noisy(Llama(LlamaConfig(**SIZES, n_kv_head=1), dtype=np.float64))


def noisy(model):
    """The model with larger weights: those of a new one leave norms little to divide by."""
    draw = np.random.default_rng(0)
    for parameter in model.parameters():
        parameter.data += 0.3 * draw.standard_normal(parameter.shape)
    return model.eval()


def randomized(model, config=None, seed=1):
    """The model with LoRA's matrices, whose B is not zero."""
    add_lora(model, config or LoraConfig(r=2, lora_alpha=3))
    draw = np.random.default_rng(seed)
    for _, _, adapter in adapted_layers(model):
        adapter.lora_B.data[...] = 0.2 * draw.standard_normal(adapter.lora_B.shape)
    return model


def test_a_new_change_changes_nothing(model):
    before = model(IDS)[0].numpy()
    np.testing.assert_array_equal(add_lora(model, LoraConfig(r=3))(IDS)[0].numpy(), before)


@pytest.mark.parametrize("target", [None, "all-linear"])
def test_gradients(model, target):
    randomized(model, LoraConfig(r=2, target_modules=target))
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    assert names and all(".adapter.lora_" in name for name in names)
    _, loss = model(IDS[:, :-1], IDS[:, 1:])
    loss.backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == (name in names), name
    for _, _, adapter in list(adapted_layers(model))[:2]:

        def loss_of(a, b, adapter=adapter):
            adapter.lora_A, adapter.lora_B = a, b
            return model(IDS[:, :-1], IDS[:, 1:])[1]

        saved = adapter.lora_A, adapter.lora_B
        gradcheck(loss_of, tuple(autograd.tensor(p.numpy(), requires_grad=True) for p in saved))
        adapter.lora_A, adapter.lora_B = saved


def test_merge_and_unmerge(model):
    plain = {name: array.copy() for name, array in model.state_dict().items()}
    randomized(model)
    apart = model(IDS)[0].numpy()
    merged = merge_lora(merge_lora(model))(IDS)[0].numpy()
    np.testing.assert_allclose(merged, apart, rtol=1e-12, atol=1e-12)
    unmerge_lora(unmerge_lora(model))
    np.testing.assert_array_equal(model(IDS)[0].numpy(), apart)
    for name, array in plain.items():
        np.testing.assert_array_equal(model.state_dict()[name], array)
    assert remove_lora(model).state_dict().keys() == plain.keys()
    np.testing.assert_array_equal(model(IDS)[0].numpy(), merged)
    assert all(p.requires_grad for p in model.parameters())


def test_generation_uses_the_change(model):
    ids = IDS[:1]
    apart = generate(randomized(model), ids, max_new_tokens=4)
    np.testing.assert_array_equal(generate(model, ids, max_new_tokens=4, use_cache=False), apart)
    np.testing.assert_array_equal(generate(remove_lora(model), ids, max_new_tokens=4), apart)


def test_files(model, tmp_path):
    model.save_pretrained(tmp_path / "base")
    randomized(model, LoraConfig(r=2, lora_alpha=5, use_rslora=True, lora_dropout=0.25))
    save_adapter(model, tmp_path / "change", base=str(tmp_path / "base"))
    assert sorted(p.name for p in (tmp_path / "change").iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors",
    ]  # fmt: skip
    again = load_model(tmp_path / "change", dtype=np.float64)
    np.testing.assert_array_equal(again(IDS)[0].numpy(), model(IDS)[0].numpy())
    assert again.lora_config.scale == model.lora_config.scale
    assert not again.training


def test_other_forms_of_a_model_keep_the_change(tmp_path):
    """Int8 weights, an exported model, and a run that starts from the change."""
    model = noisy(GPT(GPTConfig(**SIZES | dict(vocab_size=256))))
    model.save_pretrained(tmp_path / "base")
    save_tokenizer(ByteTokenizer(), tmp_path / "base")
    randomized(model)
    save_adapter(model, tmp_path / "change", base=str(tmp_path / "base"))
    expected = model(IDS)[0].numpy()
    spread = np.abs(expected).max()
    change = np.abs(expected - load_model(tmp_path / "base")(IDS)[0].numpy()).max()
    assert change > 0.1 * spread  # no other form could lose it without being noticed
    np.testing.assert_array_equal(
        quantize(model)(IDS)[0].numpy(), quantize(merge_lora(model))(IDS)[0].numpy()
    )
    unmerge_lora(model)
    with pytest.raises(UserError, match="save_adapter, or put them into the weights first"):
        model.save_pretrained(tmp_path / "no")
    assert not (tmp_path / "no").exists()
    export(tmp_path / "change", tmp_path / "exported")
    (tmp_path / "text.txt").write_text("to be or not to be " * 20)
    run = start(
        TrainConfig(
            data=(str(tmp_path / "text.txt"),), init_from=str(tmp_path / "change"),
            out_dir=str(tmp_path / "run"), batch_size=1, max_iters=1, eval_iters=1,
        )
    )  # fmt: skip
    for other in (load_model(tmp_path / "exported"), run.model.eval()):
        np.testing.assert_allclose(other(IDS)[0].numpy(), expected, atol=1e-5 * spread)
    assert all(p.requires_grad for p in run.model.parameters())


def test_packed_weights_hold_no_change(tmp_path):
    metadata, tensors = gguf_llama({"norm": "F32", "": "Q8_0"})
    write_gguf(tmp_path / "a.gguf", metadata, tensors)
    model = add_lora(load_model(tmp_path / "a.gguf", packed=True), LoraConfig())
    for change in (merge_lora, remove_lora):
        with pytest.raises(UserError, match="packed weights cannot hold LoRA's change"):
            change(model)


def test_refusals(tmp_path):
    model = llama()
    with pytest.raises(UserError, match="no LoRA matrices"):
        save_adapter(model, tmp_path)
    with pytest.raises(UserError, match="'q_prj' .its layers are down_proj.*did you mean 'q_proj'"):
        add_lora(model, LoraConfig(target_modules=("v_proj", "q_prj")))
    with pytest.raises(UserError, match="is wrong"):
        add_lora(model, LoraConfig(target_modules="("))
    with pytest.raises(UserError, match="r is 0"):
        LoraConfig(r=0)
    assert all(p.requires_grad for p in model.parameters())
    randomized(model)
    with pytest.raises(UserError, match="already"):
        add_lora(model, LoraConfig())
    save_adapter(model, tmp_path)
    with pytest.raises(UserError, match="does not say which model"):
        load_model(tmp_path)

    path = tmp_path / "adapter_config.json"
    values = json.loads(path.read_text())
    for change, message in [
        ({"use_dora": True}, "use_dora is True"),
        ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
        ({"r": 3}, r"lora_A.weight has shape \[2, 8\]; expected \[3, 8\]"),
        ({"r": "x"}, "r must be a whole number"),
        ({"target_modules": ["q_proj"]}, "is of no layer that is changed"),
        ({"target_modules": ["q_proj", "v_proj", "k_proj"]}, "is missing"),
        ({"target_modules": [3]}, "target_modules"),
        ({"base_model_name_or_path": str(tmp_path)}, "no model but a change"),
    ]:
        path.write_text(json.dumps(values | change))
        plain = llama()
        with pytest.raises(UserError, match=message):
            if "base_model_name_or_path" in change:
                load_model(tmp_path)
            load_adapter(plain, tmp_path)
        assert not any(adapted_layers(plain))
        assert all(p.requires_grad for p in plain.parameters())
