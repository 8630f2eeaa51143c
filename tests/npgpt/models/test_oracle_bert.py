"""The same weights in Hugging Face's BERT, with each of its heads: the same numbers."""

import numpy as np
import pytest

from npgpt import load_model
from npgpt.models.bert import NAMES_IN_FILES, Bert, BertConfig
from npgpt.weights.names import name_there

pytestmark = pytest.mark.usefixtures("oracle")

SMALL = dict(vocab_size=37, n_positions=19, n_embd=24, n_layer=2, n_head=3)
MASKED = dict(architecture="BertForMaskedLM")
LABELS = dict(architecture="BertForSequenceClassification")
CASES = {
    "hidden states": SMALL | dict(architecture="BertModel"),
    "masked tokens": SMALL | MASKED,
    "one of each": MASKED | dict(vocab_size=3, n_positions=1, n_embd=3, n_layer=1, n_head=1),
    "odd widths": MASKED | dict(vocab_size=101, n_positions=33, n_embd=35, n_layer=3, n_head=7,
                                n_inner=17, type_vocab_size=3),
    "tanh gelu, another epsilon": SMALL | MASKED | dict(activation_function="gelu_new",
                                                        layer_norm_epsilon=0.1),
    "next sentence": SMALL | dict(architecture="BertForNextSentencePrediction"),
    "labels": SMALL | LABELS | dict(num_labels=5, activation_function="relu"),
    "two labels": SMALL | LABELS,
    "a number": SMALL | LABELS | dict(num_labels=1),
    "start and end": SMALL | dict(architecture="BertForQuestionAnswering"),
    "another padding": SMALL | MASKED | dict(pad_token_id=36),
}  # fmt: skip
SIZES = [(np.float64, 1e-10), (np.float32, 2e-5)]


def their_config(ours):
    from transformers import BertConfig as TheirConfig

    return TheirConfig(**ours.config.to_dict(), attn_implementation="eager")


def twins(fields, dtype=np.float64):
    """Our model and theirs, with the same random weights."""
    import torch
    import transformers

    rates = dict(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    ours = Bert(BertConfig(**fields, **rates), dtype=dtype)
    random = np.random.default_rng(7)
    for parameter in ours.parameters():
        noise = 0.2 * random.standard_normal(parameter.shape)
        parameter.data = (parameter.data + noise).astype(dtype)
    theirs = getattr(transformers, ours.config.architecture)(their_config(ours))
    theirs.to(torch.float64 if dtype == np.float64 else torch.float32)
    state = {}
    for name, value in ours.state_dict().items():
        there = their_name(name, ours)
        value = value.T if there.endswith(".T") else value
        state[there.removesuffix(".T")] = torch.tensor(value.copy())
    missing, unexpected = theirs.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(name.startswith("cls.predictions.decoder") for name in missing)
    theirs.tie_weights()
    return ours.eval(), theirs.eval()


def their_name(name, ours):
    there = name_there(name, NAMES_IN_FILES) or name
    return there.removeprefix("bert.") if ours.config.architecture == "BertModel" else there


def batch(ours):
    """Return the inputs of a batch with padding and segments, and its targets."""
    config = ours.config
    random = np.random.default_rng(3)
    B, T = 3, config.n_positions
    ids = random.integers(0, config.vocab_size, (B, T))
    mask = np.ones_like(ids)
    for row, length in enumerate((0, 1, T // 2)):
        mask[row, T - length :] = 0
    mask[:, 0] = 1
    ids[mask == 0] = config.pad_token_id
    segments = random.integers(0, config.type_vocab_size, (B, T))
    if config.architecture == "BertForMaskedLM":
        targets = random.integers(0, config.vocab_size, (B, T))
        targets[(random.random((B, T)) < 0.5) | (mask == 0)] = -100
        targets[:, 0] = 0
    elif config.architecture == "BertForQuestionAnswering":
        targets = random.integers(0, T, (B, 2))
        targets[1, 0] = -100  # the start of one text does not count
    elif config.num_labels == 1:
        targets = random.standard_normal(B)
    else:
        targets = random.integers(0, 2, B)
    return dict(input_ids=ids, attention_mask=mask, token_type_ids=segments), targets


def close(a, b, tolerance, what, scale=None):
    b = b.detach().numpy()
    largest = np.abs(b).max() if scale is None else scale
    assert a.shape == b.shape and a.dtype == b.dtype, what
    assert np.abs(a - b).max() <= tolerance * largest, what


@pytest.mark.parametrize(("dtype", "tolerance"), SIZES)
@pytest.mark.parametrize("name", CASES)
def test_output_loss_and_every_gradient(name, dtype, tolerance):
    import torch

    ours, theirs = twins(CASES[name], dtype)
    inputs, targets = batch(ours)
    tensors = {key: torch.tensor(value) for key, value in inputs.items()}
    if ours.config.architecture == "BertModel":
        found = theirs(**tensors)
        hidden, _ = ours(**inputs)
        pooled = ours.pooler(hidden)
        close(hidden.numpy(), found.last_hidden_state, tolerance, "hidden states")
        close(pooled.numpy(), found.pooler_output, tolerance, "the pooler's result")
        np.sum(hidden**2).backward(retain_graph=True)
        np.sum(np.sin(pooled)).backward()
        (found.last_hidden_state.square().sum() + found.pooler_output.sin().sum()).backward()
    else:
        labels = torch.tensor(targets).to(torch.float64 if targets.dtype.kind == "f" else None)
        if targets.dtype.kind == "f":
            labels = labels.to(theirs.dtype)
        logits, loss = ours(targets=targets, **inputs)
        if ours.span_head is None:
            found = theirs(**tensors, labels=labels)
            close(logits.numpy(), found.logits, tolerance, "logits")
        else:
            labels[labels < 0] = ours.config.n_positions  # which does not count there
            found = theirs(**tensors, start_positions=labels[:, 0], end_positions=labels[:, 1])
            close(logits.numpy()[..., 0], found.start_logits, tolerance, "starts")
            close(logits.numpy()[..., 1], found.end_logits, tolerance, "ends")
        close(loss.numpy(), found.loss, tolerance, "loss")
        loss.backward()
        found.loss.backward()
    gradients = {n: p.grad for n, p in theirs.named_parameters() if p.grad is not None}
    largest = max(g.abs().max().item() for g in gradients.values())
    names = {n: their_name(n, ours) for n, _ in ours.named_parameters()}
    assert {n.removesuffix(".T") for n in names.values()} >= set(gradients)
    for n, parameter in ours.named_parameters():
        there = names[n]
        gradient = parameter.grad.numpy()
        gradient = gradient.T if there.endswith(".T") else gradient
        close(gradient, gradients[there.removesuffix(".T")], tolerance, n, largest)


def test_hidden_states_and_attention_maps():
    import torch

    ours, theirs = twins(CASES["masked tokens"])
    inputs, _ = batch(ours)
    inside = ours.activations(**inputs)
    tensors = {key: torch.tensor(value) for key, value in inputs.items()}
    found = theirs(**tensors, output_hidden_states=True, output_attentions=True)
    for a, b in (
        (inside.hidden_states, found.hidden_states),
        (inside.attentions, found.attentions),
    ):
        for x, y in zip(a, b, strict=True):
            close(x.numpy(), y, 1e-10, "an activation")


@pytest.mark.parametrize("name", CASES)
def test_weights_in_and_out(name, tmp_path):
    import transformers

    ours, theirs = twins(CASES[name], np.float32)
    inputs, _ = batch(ours)
    expected = ours(**inputs)[0].numpy()
    theirs.save_pretrained(tmp_path / "theirs")
    again = load_model(tmp_path / "theirs")
    assert isinstance(again, Bert) and again.config.architecture == ours.config.architecture
    np.testing.assert_array_equal(again(**inputs)[0].numpy(), expected)
    again.save_pretrained(tmp_path / "ours")
    back = getattr(transformers, ours.config.architecture).from_pretrained(tmp_path / "ours")
    for (key, a), (other, b) in zip(
        theirs.state_dict().items(), back.state_dict().items(), strict=True
    ):
        assert key == other and np.array_equal(a.numpy(), b.numpy()), key


def test_a_file_of_pretraining_serves_each_head(tmp_path):
    """BERT's published files have both heads, and the names of TensorFlow for norms."""
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import BertConfig as TheirConfig
    from transformers import BertForPreTraining

    ours, _ = twins(CASES["masked tokens"], np.float32)
    torch.manual_seed(0)
    theirs = BertForPreTraining(TheirConfig(**ours.config.to_dict())).eval()
    theirs.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("m.bias", "m.beta"): x
        for name, x in load_file(path).items()
    }
    save_file(old, path, {"format": "pt"})
    inputs, _ = batch(ours)
    found = theirs(**{key: torch.tensor(value) for key, value in inputs.items()})
    masked = load_model(tmp_path)
    close(masked(**inputs)[0].numpy(), found.prediction_logits, 1e-5, "tokens")
    following = load_model(
        tmp_path,
        config=BertConfig(**CASES["next sentence"] | dict(attn_pdrop=0.0)),
    )
    close(following(**inputs)[0].numpy(), found.seq_relationship_logits, 1e-5, "sentences")
