"""The page of common mistakes: each check there fails where its mistake is made."""

import contextlib
import io
import re

import numpy as np
import pytest
from helpers import ROOT

from autograd import nn
from npgpt import GPT, GPTConfig
from npgpt.models.bert import Bert, BertConfig
from npgpt.models.blocks import Block
from npgpt.models.positions import SinusoidalEmbedding
from npgpt.training.optim import AdamW

PAGE = ROOT / "docs" / "common_mistakes.md"
attention = nn.scaled_dot_product_attention


@pytest.fixture(scope="module")
def page():
    """The names that the page's blocks define; they run, so nothing of ours makes a mistake."""
    names = {}
    with contextlib.redirect_stdout(io.StringIO()):
        for code in re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL):
            exec(compile(code, PAGE.name, "exec"), names)
    return names


SMALL = dict(vocab_size=11, n_positions=8, n_embd=8, n_layer=1, n_head=2)


def block_of(kind, **options):
    """A block of another class, with the weights of one of ours."""
    config = GPTConfig(**SMALL, initializer_range=0.5, **options)
    block = GPT(config, dtype=np.float64).eval().transformer.h[0]
    block.__class__ = kind
    return block


class NoResiduals(Block):
    def forward(self, x):
        return self.mlp(self.ln_2(self.attn(self.ln_1(x))))


class NoSecondResidual(Block):
    def forward(self, x):
        return self.mlp(self.ln_2(x + self.attn(self.ln_1(x))))


class NoNorms(Block):
    def forward(self, x):
        x = x + self.attn(x)
        return x + self.mlp(x)


class NoSecondNorm(Block):
    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(x)


class NormOfTheBranch(Block):
    def forward(self, x):
        x = x + self.ln_1(self.attn(x))
        return x + self.ln_2(self.mlp(x))


def bert_with(mask=lambda ids: np.ones_like(ids)):
    """A BERT's attention weights under a mask, (1, T) or (1, T, T)."""
    model = Bert(BertConfig(**SMALL, initializer_range=0.5), dtype=np.float64).eval()
    return lambda ids: model.activations(ids, mask(ids)).attentions[0].numpy()


def look(target, source):
    """Attention of a target, the query, to a source, the keys and values."""
    return attention(target, source, source)


class AlwaysSmooth(GPT):
    smoothing = property(lambda self: self.label_smoothing)


class SmoothLogits(GPT):
    def forward(self, *args, **options):
        smoothing, self.label_smoothing = self.label_smoothing, 0.0
        logits, loss = super().forward(*args, **options)
        if self.training:
            logits, loss = (1 - smoothing) * logits, (1 - smoothing) * loss
        self.label_smoothing = smoothing
        return logits, loss


def smoothed(kind=GPT):
    rates = dict(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    return kind(GPTConfig(**SMALL, **rates), dtype=np.float64)


def mean_of_all(logits, targets):
    """A loss whose mean counts the positions that are not asked."""
    log_p = nn.log_softmax(logits)
    rows = np.arange(len(targets))
    return -np.where(targets == -100, 0, log_p[rows, np.maximum(targets, 0)]).mean()


def waves(step, order):
    """A table of sinusoids, with the angle of channel c and the order of the channels."""

    def table(n, d):
        angles = np.arange(n)[:, None] / 10000 ** (step * np.arange(d // 2) / d)
        found = np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(n, d)
        return found[:, order(d)]

    return table


def fine_tuning(chosen):
    """Fine-tuning in which only some parameters learn."""

    def fine_tune(model):
        ids = np.array([[3, 1, 4, 1, 5]])
        model(ids[:, :-1], targets=ids[:, 1:])[1].backward()
        AdamW((name, p) for name, p in model.named_parameters() if chosen(name)).step(1e-3)

    return fine_tune


def counting(attention=12 / 3, mlp=8, heads=False, tied=True):
    """A count with so many matrices of C by C."""

    def count(config):
        C, L, V = config.n_embd, config.n_layer, config.vocab_size
        matrices = attention + mlp + (3 * (config.n_head - 1) if heads else 0)
        embeddings = (V * (1 if tied else 2) + config.n_positions) * C
        return embeddings + L * (matrices * C * C + 13 * C) + 2 * C

    return count


MISTAKES = {
    "check_scale": {
        "no root of d_k": lambda q, k, v: attention(q, k, v, is_causal=True, scale=1),
        "d_k without the root": lambda q, k, v: attention(q, k, v, scale=1 / q.shape[-1]),
    },
    "check_mask": {
        "a token does not see itself": lambda q, k, v: attention(
            q, k, v, attn_mask=np.tri(len(q), k=-1, dtype=bool)
        ),
        "a token sees the next": lambda q, k, v: attention(
            q, k, v, attn_mask=np.tri(len(q), k=1, dtype=bool)
        ),
        "no mask": attention,
        "a mask that is added as 1 and 0": lambda q, k, v: attention(
            q, k, v, attn_mask=np.tri(len(q))
        ),
    },
    "check_values": {
        "v twice": lambda q, k, v: attention(q, k, v) * v,
        "no softmax": lambda q, k, v: q @ k.T @ v,
    },
    "check_block": {
        "no residuals": block_of(NoResiduals),
        "no second residual": block_of(NoSecondResidual),
        "no norms": block_of(NoNorms),
        "no second norm": block_of(NoSecondNorm),
    },
    "check_cross_attention": {
        "the source asks": lambda target, source: look(source, target),
        "the target looks at itself": lambda target, source: look(target, target),
        "the source is not read": lambda target, source: target + 1,
        "all positions ask together": lambda target, source: (
            look(target.mean(axis=1, keepdims=True), source) + 0 * target
        ),
    },
    "check_both_directions": {
        "causal": bert_with(lambda ids: np.tri(ids.shape[1])[None]),
        "[MASK] is hidden": bert_with(lambda ids: ids != 4),
        "no softmax": lambda ids: bert_with()(ids) / 2,
    },
    "check_gaps": {
        "the mean of all positions": mean_of_all,
        "all positions are asked": lambda logits, targets: -nn.log_softmax(logits)[:, 8].mean(),
    },
    "check_pooling": {
        "padding is counted": lambda hidden, mask: hidden.mean(axis=0),
        "padding is divided by": lambda hidden, mask: (hidden * mask[:, None]).mean(axis=0),
        "[CLS]": lambda hidden, mask: hidden[0],
    },
    "check_post_norm": {
        "GPT-2's": block_of(Block),
        "of the branch": block_of(NormOfTheBranch),
        "no norm": block_of(NoNorms),
    },
    "check_smoothing": {
        "in evaluation": smoothed(AlwaysSmooth),
        "of the logits": smoothed(SmoothLogits),
    },
    "check_sinusoids": {
        "halves": lambda n, d: SinusoidalEmbedding(d, np.float64, "halves").rows(n),
        "cosines first": waves(2, lambda d: np.arange(d) ^ 1),
        "i / d": waves(1, np.arange),
    },
    "check_fine_tuning": {
        "all but the last block are fixed": fine_tuning(lambda name: ".h.1." in name),
        "the embeddings are fixed": fine_tuning(lambda name: ".wte." not in name),
        "nothing learns": fine_tuning(lambda name: False),
    },
    "check_count": {
        "a matrix of C by C for each head": counting(heads=True),
        "attention of three matrices": counting(attention=3),
        "a narrow MLP": counting(mlp=2),
        "the output layer counts again": counting(tied=False),
    },
}


@pytest.mark.parametrize(
    ("check", "mistake"), [(check, mistake) for check in MISTAKES for mistake in MISTAKES[check]]
)
def test_a_mistake_is_found(check, mistake, page):
    with pytest.raises(AssertionError):
        page[check](MISTAKES[check][mistake])


def test_an_encoder_is_found(page, monkeypatch):
    def both_ways(*args, is_causal=False, **options):
        return attention(*args, **options)

    page["check_decoder"](page["model"])
    monkeypatch.setattr(nn, "scaled_dot_product_attention", both_ways)
    with pytest.raises(AssertionError):
        page["check_decoder"](page["model"])


def test_a_second_attention_is_found(page):
    config = page["config"]
    model = GPT(config, dtype=np.float64).eval()
    block = model.transformer.h[0]
    block.cross_attn = block.attn.c_proj
    del block.attn.c_proj
    block.attn.c_proj = lambda x: block.cross_attn(x)
    with pytest.raises(AssertionError):
        page["check_decoder"](model)


def test_what_is_right_passes(page):
    """The checks are of the mistakes only: other right implementations pass, too."""

    def by_hand(query, key, value):
        scores = query @ key.T / np.sqrt(query.shape[-1])
        e = np.tri(len(query)) * np.exp(scores)
        return e / e.sum(axis=1, keepdims=True) @ value

    for check in ("check_scale", "check_mask", "check_values"):
        page[check](by_hand)
    page["check_block"](block_of(Block))
    page["check_cross_attention"](look)
    page["check_both_directions"](bert_with())
    page["check_smoothing"](smoothed())
    page["check_sinusoids"](waves(2, np.arange))
    page["check_fine_tuning"](fine_tuning(lambda name: True))
    page["check_count"](counting())


def test_every_check_is_on_trial(page):
    assert {name for name in page if name.startswith("check_")} == {*MISTAKES, "check_decoder"}
