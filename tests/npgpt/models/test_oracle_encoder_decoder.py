"""The same weights in Hugging Face's MarianMTModel: the same logits, gradients and texts."""

import numpy as np
import pytest
from helpers import Quiet

from npgpt import generate, load_model
from npgpt.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from npgpt.models.registry import ARCHITECTURES
from npgpt.training.config import TrainConfig
from npgpt.training.run import start, train
from npgpt.translation import translate
from npgpt.weights.export import export
from npgpt.weights.names import name_there

pytestmark = pytest.mark.usefixtures("oracle")

SMALL = dict(vocab_size=37, n_positions=19, n_embd=24, n_layer=2, n_head=3)
TOKENS = dict(pad_token_id=1, eos_token_id=2, decoder_start_token_id=1)
CASES = {
    "plain": SMALL | TOKENS,
    "one of each": dict(vocab_size=5, n_positions=2, n_embd=2, n_layer=1, n_head=1),
    "unscaled": SMALL | TOKENS | dict(scale_embedding=False),
    "swish": SMALL | TOKENS | dict(activation_function="swish", n_inner=17),
    "its own start": SMALL | dict(pad_token_id=1, eos_token_id=2, decoder_start_token_id=3),
    "deep": SMALL | TOKENS | dict(n_layer=5, activation_function="gelu"),
}


def twins(fields, dtype=np.float64):
    """Our model and theirs, with the same random weights."""
    import torch
    from transformers import MarianConfig, MarianMTModel

    rates = dict(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    ours = EncoderDecoder(EncoderDecoderConfig(**fields, **rates, model_type="marian"), dtype=dtype)
    random = np.random.default_rng(7)
    for parameter in ours.parameters():
        noise = 0.2 * random.standard_normal(parameter.shape)
        parameter.data = (parameter.data + noise).astype(dtype)
    config = MarianConfig(**ours.config.to_dict(), attn_implementation="eager")
    theirs = MarianMTModel(config).to(torch.float64 if dtype == np.float64 else torch.float32)
    state = {}
    for name, value in ours.state_dict().items():
        there = their_name(name)
        value = value.T if there.endswith(".T") else value
        state[there.removesuffix(".T")] = torch.tensor(value.copy())
    missing, unexpected = theirs.load_state_dict(state, strict=False)
    tied = ("embed_tokens.weight", "lm_head.weight", "embed_positions.weight")
    assert not unexpected and all(name.endswith(tied) for name in missing)
    theirs.tie_weights()
    for stack, own in (
        ("encoder", ours.transformer.encoder),
        ("decoder", ours.transformer.decoder),
    ):
        table = getattr(theirs.model, stack).embed_positions.weight
        rows = own.embed_positions.rows(len(table))
        assert np.abs(table.detach().numpy() - rows).max() < 1e-6  # theirs is float32
        table.data = torch.tensor(rows)
    theirs.final_logits_bias.requires_grad_()
    return ours.eval(), theirs.eval()


def their_name(name):
    return name_there(name, ARCHITECTURES["marian"].names) or name


def batch(fields, with_padding=True):
    random = np.random.default_rng(3)
    n = fields["n_positions"]
    source = random.integers(0, fields["vocab_size"], (3, n))
    target = random.integers(0, fields["vocab_size"], (3, max(1, n - 3)))
    mask = np.ones_like(source)
    if with_padding:
        for row, length in enumerate((0, 1, n // 2)):
            mask[row, n - length :] = 0
        target[0, -1:] = -100
    return source, target, mask


def close(a, b, tolerance, what, scale=None):
    b = b.detach().numpy()
    largest = np.abs(b).max() if scale is None else scale
    assert a.shape == b.shape and np.abs(a - b).max() <= tolerance * largest, what


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("name", CASES)
def test_logits_loss_and_every_gradient(name, smoothing):
    import torch
    import torch.nn.functional as F

    fields = CASES[name]
    ours, theirs = twins(fields)
    source, target, mask = batch(fields)
    ours.label_smoothing = smoothing
    logits, loss = ours.train()(source, target, mask)
    loss.backward()
    labels = torch.tensor(target)
    found = theirs(torch.tensor(source), attention_mask=torch.tensor(mask), labels=labels)
    expected = F.cross_entropy(
        found.logits.flatten(0, 1), labels.flatten(), label_smoothing=smoothing
    )
    expected.backward()
    close(logits.numpy(), found.logits, 1e-10, "logits")
    close(loss.numpy(), expected, 1e-10, "loss")
    gradients = {n: p.grad for n, p in theirs.named_parameters() if p.requires_grad}
    gradients["final_logits_bias"] = theirs.final_logits_bias.grad
    gradients = {n: g for n, g in gradients.items() if "embed_positions" not in n}
    largest = max(g.abs().max().item() for g in gradients.values())
    names = {n: their_name(n) for n, _ in ours.named_parameters()}
    assert {n.removesuffix(".T") for n in names.values()} == set(gradients)
    for n, parameter in ours.named_parameters():
        there = names[n]
        gradient = parameter.grad.numpy()
        gradient = gradient.T if there.endswith(".T") else gradient
        close(gradient, gradients[there.removesuffix(".T")], 1e-10, n, largest)
    assert ours.eval().smoothing == 0


def test_hidden_states_and_attention_maps():
    import torch

    ours, theirs = twins(CASES["plain"])
    source, target, mask = batch(CASES["plain"])
    read = ours.shifted(target)
    inside = ours.activations(source, mask, read)
    found = theirs(
        torch.tensor(source), attention_mask=torch.tensor(mask),
        decoder_input_ids=torch.tensor(read), output_hidden_states=True, output_attentions=True,
    )  # fmt: skip
    for a, b in (
        (inside.hidden_states, found.decoder_hidden_states),
        (inside.attentions, found.decoder_attentions),
        (inside.cross_attentions, found.cross_attentions),
        (inside.encoder.hidden_states, found.encoder_hidden_states),
        (inside.encoder.attentions, found.encoder_attentions),
    ):
        for x, y in zip(a, b, strict=True):
            close(x.numpy(), y, 1e-10, "an activation")


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("beams", [1, 3])
def test_generation_token_for_token(beams, use_cache, monkeypatch):
    import torch

    ours, theirs = twins(CASES["plain"])
    source, _, mask = batch(CASES["plain"])
    calls, encode = [], ours.transformer.encode
    monkeypatch.setattr(ours.transformer, "encode", lambda *a: calls.append(a) or encode(*a))
    for options in (
        {},
        dict(length_penalty=0.5),
        dict(min_new_tokens=9),
        dict(bad_words_ids=[[1]]),
    ):
        options = dict(num_beams=beams, max_new_tokens=14, eos_token_id=2, pad_token_id=1) | options
        found = generate(ours, source, attention_mask=mask, use_cache=use_cache, **options)
        expected = theirs.generate(
            torch.tensor(source), attention_mask=torch.tensor(mask), do_sample=False,
            forced_eos_token_id=None, **options,
        )  # fmt: skip
        np.testing.assert_array_equal(found, expected.numpy())
    assert len(calls) == 4  # the encoder runs once for each call


def test_weights_in_and_out(tmp_path):
    from transformers import MarianMTModel

    ours, theirs = twins(CASES["plain"], np.float32)
    source, target, mask = batch(CASES["plain"])
    expected = ours(source, target, mask)[0].numpy()
    theirs.final_logits_bias.requires_grad_(False)
    theirs.save_pretrained(tmp_path / "theirs")
    again = load_model(tmp_path / "theirs")
    assert isinstance(again, EncoderDecoder)
    np.testing.assert_array_equal(again(source, target, mask)[0].numpy(), expected)
    again.save_pretrained(tmp_path / "ours")
    back = MarianMTModel.from_pretrained(tmp_path / "ours").eval()
    for (name, a), (_, b) in zip(
        theirs.state_dict().items(), back.state_dict().items(), strict=True
    ):
        assert np.abs(a.numpy() - b.numpy()).max() < 1e-6, name


def test_a_run_on_pairs_goes_to_transformers(tmp_path):
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    words = "one two three four five six seven eight nine ten".split()
    lines = [f"{a} {b}\t{b}, {a}.\n" for a in words for b in words]
    (tmp_path / "pairs.tsv").write_text("".join(lines))
    sizes = dict(n_layer=1, n_head=2, n_embd=16, block_size=16, batch_size=8, sample_tokens=0)
    config = TrainConfig(
        task="pairs", model_type="marian", data=(str(tmp_path / "pairs.tsv"),), max_iters=40,
        eval_interval=40, eval_iters=1, out_dir=str(tmp_path / "run"), warmup_iters=4, **sizes,
    )  # fmt: skip
    run = start(config)
    train(run, Quiet(run))
    export(run.folder, tmp_path / "there")
    model = load_model(run.folder)
    theirs = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "there").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "there")
    sources = ["one two", "ten ten"]
    ids = tokenizer(sources, return_tensors="pt", return_token_type_ids=False)
    for beams in (1, 3):
        found = theirs.generate(**ids, num_beams=beams).numpy()
        np.testing.assert_array_equal(
            generate(model, ids["input_ids"].numpy(), num_beams=beams), found
        )
        texts = [each.target for each in translate(model, run.tokenizer, sources, beams)]
        assert tokenizer.batch_decode(found, skip_special_tokens=True) == texts


@pytest.mark.parametrize("checkpointed", [False, True])
def test_gradients_with_activations_computed_again(checkpointed):
    ours, _ = twins(CASES["plain"])
    source, target, mask = batch(CASES["plain"])
    ours(source, target, mask)[1].backward()
    expected = [p.grad.numpy().copy() for p in ours.parameters()]
    ours.zero_grad()
    ours.transformer.checkpoint_activations = checkpointed
    ours(source, target, mask)[1].backward()
    for gradient, parameter in zip(expected, ours.parameters(), strict=True):
        np.testing.assert_allclose(parameter.grad.numpy(), gradient, rtol=1e-12, atol=1e-15)
