"""Train a GPT of one layer and one head to sort letters, then look inside and see how it does it.

    python examples/08_sorter.py [--steps 1000] [--save FOLDER] [--plot FILE.png]

A sequence is eight different letters, ``>``, and the same letters in order: ``qzbuamtc>abcmqtuz``.
The model learns to predict each letter after the ``>`` from the letters before it. Training takes
well under a minute. ``--plot`` needs matplotlib (``pip install 'npgpt[viz]'``).
"""

import argparse
from string import ascii_lowercase

import numpy as np

from npgpt import GPT, GPTConfig
from npgpt.tokenizers import CharTokenizer, save_tokenizer
from npgpt.training.optim import AdamW, clip_grad_norm, learning_rate_at

N = 8  # letters to sort

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=1000)
parser.add_argument("--save", metavar="FOLDER", help="keep the model there")
parser.add_argument("--plot", metavar="FILE", help="draw the attention maps")
options = parser.parse_args()

tokenizer = CharTokenizer.from_text(ascii_lowercase + ">")
letters = tokenizer.encode(ascii_lowercase)  # (26,)
arrow = tokenizer.encode(">")  # (1,)


def sequences(n, random):
    """Draw n problems with their solutions, (n, 2N + 1) token ids."""
    drawn = random.permuted(np.tile(letters, (n, 1)), axis=1)[:, :N]  # (n, 26) -> (n, N)
    return np.concatenate([drawn, np.tile(arrow, (n, 1)), np.sort(drawn, axis=1)], axis=1)


# ---- training

model = GPT(
    GPTConfig(
        vocab_size=tokenizer.n_vocab, n_positions=2 * N, n_layer=1, n_head=1, n_embd=64,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    ),
    seed=1,
)  # fmt: skip
optimizer = AdamW(model.named_parameters(), betas=(0.9, 0.99), weight_decay=0.1)
random = np.random.default_rng(1)
print(f"{model.n_parameters():,} parameters")
for step in range(options.steps):
    ids = sequences(64, random)
    inputs, targets = ids[:, :-1], ids[:, 1:].copy()
    targets[:, :N] = -100  # the letters of the problem are random: no loss for them
    _, loss = model(inputs, targets)
    loss.backward()
    clip_grad_norm(model.parameters(), max_norm=1.0)
    optimizer.step(learning_rate_at(step, 3e-3, 3e-4, warmup=50, decay_until=options.steps))
    optimizer.zero_grad()
    if step % 200 == 0 or step == options.steps - 1:
        print(f"step {step:>4}  loss {loss.item():.4f}")
if options.save:
    model.save_pretrained(options.save)
    save_tokenizer(tokenizer, options.save)
model.eval()


def solve(ids):
    """Let the model continue problems, (n, N + 1) -> (n, N)."""
    return model.generate(ids, max_new_tokens=N)[:, N + 1 :]


test = sequences(1000, np.random.default_rng(2))
solved = (solve(test[:, : N + 1]) == test[:, N + 1 :]).all(axis=1)
print(f"\nsorted {solved.mean():.1%} of 1,000 problems that it never saw")

# ---- inside: where each position looks

ids = sequences(1, np.random.default_rng(3))
text = tokenizer.decode(ids[0])
attention = model.activations(ids[:, :-1]).attentions[0].numpy()[0, 0]  # (2N, 2N)
print(f"\n{text}: how much (in %) each letter after the > looks at the eight before it\n")
print("          " + "".join(f"{letter:>4}" for letter in text[:N]))
for t in range(N, 2 * N):
    row = "".join(f"{100 * weight:4.0f}" for weight in attention[t, :N])
    print(f"  {text[t]} -> {text[t + 1]}  {row}")

# ---- how it sorts: three guesses, each put to a test

inputs, wanted = test[:, :-1], test[:, N + 1 :]
weights = model.activations(inputs).attentions[0].numpy()[:, 0, N:, :N]  # (n, N, N)
above = inputs[:, None, :N] > inputs[:, N:, None]  # letters that come later in the alphabet
above[:, 0] = True  # for the > itself: all
print("\n1. A letter looks at those that come later in the alphabet, so at what is left to write.")
print(
    f"   {(weights * above).sum() / weights.sum():.1%} of the attention to the problem goes there"
)

nearest = np.where(above, inputs[:, None, :N], tokenizer.n_vocab).argmin(axis=-1)  # (n, N)
on_nearest = np.take_along_axis(weights, nearest[..., None], axis=-1).mean()
print(f"   {on_nearest:.1%} is on the very next one")

print("\n2. It matters which letters there are, not where. In another order, the answer is:")
shuffled = test[:, : N + 1].copy()
shuffled[:, :N] = random.permuted(shuffled[:, :N], axis=1)
print(f"   the same in {(solve(shuffled) == solve(test[:, : N + 1])).all(axis=1).mean():.1%}")

print("\n3. The next letter is found by that look alone. With it hidden from the model, the letter")
print("   after it comes instead:")
skipped = []
for k in range(N - 1):
    mask = inputs != wanted[:, k, None]  # hides the letter that should come, wherever it stands
    logits = model(inputs, attention_mask=mask)[0].numpy()[:, N + k]  # (n, V)
    skipped.append(logits.argmax(axis=-1) == wanted[:, k + 1])
print(f"   in {np.mean(skipped):.1%}")

if options.plot:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 5), layout="constrained")
    image = axes.imshow(attention, vmin=0, vmax=1, cmap="viridis")
    axes.set_xticks(range(2 * N), text[:-1])
    axes.set_yticks(range(2 * N), text[:-1])
    axes.set(xlabel="is looked at", ylabel="looks", title=f"sorting {text[:N]}")
    figure.colorbar(image, label="attention weight")
    figure.savefig(options.plot, dpi=150)
    print(f"\n{options.plot} shows the whole map")
