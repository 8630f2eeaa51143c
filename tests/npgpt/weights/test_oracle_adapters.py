"""LoRA against peft: each reads the other's files, and both compute the same."""

import json

import numpy as np
import pytest

from npgpt import GPT, GPTConfig, load_model
from npgpt.models.bert import Bert, BertConfig
from npgpt.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from npgpt.models.heads import next_token_loss
from npgpt.models.llama import Llama, LlamaConfig
from npgpt.models.lora import LoraConfig, adapted_layers, merge_lora, unmerge_lora
from npgpt.weights.adapters import USUAL, add_lora, layer_in_files, save_adapter

pytestmark = pytest.mark.usefixtures("oracle")

SIZES = dict(vocab_size=37, n_positions=19, n_embd=24, n_layer=2, n_head=6)
MODELS = {
    "gpt2": (GPT, GPTConfig(**SIZES, activation_function="gelu_new"), np.float64, 1e-10),
    "llama": (Llama, LlamaConfig(**SIZES, n_kv_head=2), np.float32, 1e-5),
    "qwen2": (Llama, LlamaConfig(**SIZES, model_type="qwen2"), np.float32, 1e-5),
    "bert": (Bert, BertConfig(**SIZES), np.float64, 1e-10),
    "marian": (
        EncoderDecoder, EncoderDecoderConfig(**SIZES, model_type="marian"), np.float64, 1e-10,
    ),
}  # fmt: skip
CONFIGS = {
    "as usual": dict(r=3, lora_alpha=7),
    "all": dict(r=2, lora_alpha=4, target_modules="all-linear", use_rslora=True),
    "pattern": dict(
        r=1, lora_alpha=1, target_modules=r".*\.1\.(self_attn|attn|attention\.self)\.[cqvk]\w+"
    ),
}


def opened(folder, dtype):
    import torch
    import transformers

    kind = torch.float64 if dtype == np.float64 else torch.float32
    name = json.loads((folder / "config.json").read_text())["architectures"][0]
    model = getattr(transformers, name).from_pretrained(
        folder, dtype=kind, attn_implementation="eager"
    )
    return model.eval()


def logits_of(theirs, x, y):
    """The logits at tokens x; of an encoder-decoder, those of a target y that it reads."""
    import torch

    x, y = torch.tensor(x), torch.tensor(y)
    if theirs.config.is_encoder_decoder:
        return theirs(x, decoder_input_ids=y).logits
    return theirs(x).logits


def logits_here(ours, x, y):
    if isinstance(ours, EncoderDecoder):
        return ours(x, decoder_input_ids=y)[0]
    return ours(x)[0]


def batch():
    return np.random.default_rng(3).integers(0, SIZES["vocab_size"], (2, 2, 9))


@pytest.mark.parametrize("options", CONFIGS)
@pytest.mark.parametrize("name", MODELS)
def test_peft_reads_our_files(name, options, tmp_path):
    import peft
    import torch

    kind, config, dtype, tolerance = MODELS[name]
    ours = kind(config, dtype=dtype).eval()
    ours.save_pretrained(tmp_path / "base")
    add_lora(ours, LoraConfig(**CONFIGS[options]))
    draw = np.random.default_rng(1)
    for _, _, adapter in adapted_layers(ours):
        adapter.lora_B.data[...] = 0.3 * draw.standard_normal(adapter.lora_B.shape)
    save_adapter(ours, tmp_path / "change", base=str(tmp_path / "base"))

    theirs = peft.PeftModel.from_pretrained(
        opened(tmp_path / "base", dtype), str(tmp_path / "change"), is_trainable=True
    )
    theirs.to(torch.float64 if dtype == np.float64 else torch.float32).eval()
    x, y = batch()
    logits, there = logits_here(ours, x, y), logits_of(theirs, x, y)
    loss = next_token_loss(logits, y)
    loss.backward()
    expected = torch.nn.functional.cross_entropy(
        there.reshape(-1, config.vocab_size), torch.tensor(y).reshape(-1)
    )
    expected.backward()
    scale = there.abs().max().item()
    assert np.abs(logits.numpy() - there.detach().numpy()).max() <= tolerance * scale
    assert loss.item() == pytest.approx(expected.item(), rel=tolerance)
    gradients = {n: p.grad for n, p in theirs.named_parameters() if p.requires_grad}
    largest = max(g.abs().max().item() for g in gradients.values())
    n_compared = 0
    for path, _, adapter in adapted_layers(ours):
        for key in ("lora_A", "lora_B"):
            theirs_of = f"base_model.model.{layer_in_files(path, ours)}.{key}.default.weight"
            found = getattr(adapter, key).grad.numpy().T
            assert np.abs(found - gradients[theirs_of].numpy()).max() <= tolerance * largest
            n_compared += 1
    assert n_compared == len(gradients) > 0


@pytest.mark.parametrize("options", CONFIGS)
@pytest.mark.parametrize("name", MODELS)
def test_we_read_their_files(name, options, tmp_path):
    import peft
    import torch

    kind, config, dtype, tolerance = MODELS[name]
    kind(config, dtype=dtype).save_pretrained(tmp_path / "base")
    base = opened(tmp_path / "base", dtype)
    torch.manual_seed(0)
    chosen = dict(CONFIGS[options])
    if name == "marian":  # for which peft has no usual layers
        chosen.setdefault("target_modules", [*USUAL["marian"]])
    theirs = peft.get_peft_model(base, peft.LoraConfig(**chosen, init_lora_weights=False)).eval()
    theirs.save_pretrained(tmp_path / "change")
    ours = load_model(tmp_path / "change", dtype=dtype)
    x, y = batch()
    logits = logits_here(ours, x, y).numpy()
    expected = logits_of(theirs, x, y).detach().numpy()
    scale = np.abs(expected).max()
    assert np.abs(logits - expected).max() <= 10 * tolerance * scale  # float32 matrices of peft
    merged = logits_here(merge_lora(ours), x, y).numpy()
    theirs.merge_adapter()
    expected = logits_of(theirs, x, y).detach().numpy()
    assert np.abs(merged - expected).max() <= 10 * tolerance * scale
    np.testing.assert_array_equal(logits_here(unmerge_lora(ours), x, y).numpy(), logits)


LABELLED = {
    "gpt2": (GPT, GPTConfig(**SIZES, pad_token_id=0, labels=("a", "b", "c"))),
    "bert": (Bert, BertConfig(**SIZES, architecture="BertForSequenceClassification")),
}


@pytest.mark.parametrize("name", LABELLED)
def test_a_classifier_keeps_its_head(name, tmp_path):
    """peft reads the head that modules_to_save names, and we read it from peft's files."""
    import peft
    import torch

    kind, config = LABELLED[name]
    ours = kind(config, dtype=np.float64).eval()
    ours.save_pretrained(tmp_path / "base")
    heads = ("classifier", "score", "pooler")
    add_lora(ours, LoraConfig(r=3, lora_alpha=7, modules_to_save=heads))
    draw = np.random.default_rng(1)
    for parameter in ours.parameters():
        if parameter.requires_grad:
            parameter.data[...] = 0.3 * draw.standard_normal(parameter.shape)
    save_adapter(ours, tmp_path / "change", base=str(tmp_path / "base"))
    x, y = batch()
    found = ours(x)[0].numpy()

    base = opened(tmp_path / "base", np.float64)
    theirs = peft.PeftModel.from_pretrained(base, str(tmp_path / "change")).double().eval()
    expected = theirs(torch.tensor(x)).logits.detach().numpy()
    assert np.abs(found - expected).max() <= 1e-10 * np.abs(expected).max()
    assert np.abs(found - kind(config, dtype=np.float64).eval()(x)[0].numpy()).max() > 0.1

    chosen = peft.LoraConfig(
        r=2, task_type="SEQ_CLS", modules_to_save=[*heads], init_lora_weights=False
    )
    theirs = peft.get_peft_model(opened(tmp_path / "base", np.float64), chosen).double().eval()
    for each, parameter in theirs.named_parameters():
        if "modules_to_save" in each:
            torch.nn.init.normal_(parameter)
    theirs.save_pretrained(tmp_path / "theirs")
    again = load_model(tmp_path / "theirs", dtype=np.float64)
    expected = theirs(torch.tensor(x)).logits.detach().numpy()
    assert np.abs(again(x)[0].numpy() - expected).max() <= 1e-10 * np.abs(expected).max()
