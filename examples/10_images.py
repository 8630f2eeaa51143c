"""Train a GPT to read images of digits and write their names, then ask which pixels misled it.

    python examples/10_images.py [--steps 1500] [--step] [--picture FILE.svg] [--save FOLDER]

The images are the 1,797 handwritten digits of scikit-learn, 8 x 8 pixels (``pip install
'npgpt[eval]'``). An image is cut into four patches, one linear layer makes a vector of each, and
the GPT reads these vectors as if they were the first four tokens. Then it writes: s, e, v, e, n. Of
an image that it misreads, the program shows what each pixel adds to the first wrong letter. With
``--step``, the stepper walks from this letter back to the pixels.
"""

import argparse
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

import autograd
from autograd.files import write_text
from npgpt.diagnostics.page import heat_map
from npgpt.models.vision import VisionConfig, VisionGPT
from npgpt.tokenizers import CharTokenizer, save_tokenizer
from npgpt.training.optim import AdamW, clip_grad_norm, learning_rate_at

NAMES = "zero one two three four five six seven eight nine".split()
PATCH, END = "▦", "."  # what stands for a patch, and what ends a name

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=1500)
parser.add_argument("--step", action="store_true", help="walk back to the pixels in the stepper")
parser.add_argument("--picture", metavar="FILE", help="draw what each pixel adds, as SVG")
parser.add_argument("--save", metavar="FOLDER", help="keep the model there, and the image")
options = parser.parse_args()

# ---- images, and the texts that belong to them

images, labels = load_digits(return_X_y=True)
images = (images.reshape(-1, 1, 8, 8) / 16).astype(np.float32)  # pixels from 0 to 1
order = np.random.default_rng(0).permutation(len(images))
held_out, training = order[:360], order[360:]

tokenizer = CharTokenizer.from_text("".join(NAMES) + PATCH + END)
patch, end = tokenizer.encode(PATCH + END)
width = max(map(len, NAMES)) + 1
names = np.array([tokenizer.encode(name.ljust(width, END)) for name in NAMES])  # (10, W)

config = VisionConfig(
    vocab_size=tokenizer.n_vocab, n_positions=4 + width, n_embd=64, n_layer=2, n_head=4,
    image_size=8, patch_size=4, num_channels=1, image_token_id=int(patch),
    resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
)  # fmt: skip
N = config.n_patches
texts = np.concatenate([np.full((10, N), patch), names], axis=1)  # (10, N + W): ▦▦▦▦seven.
model = VisionGPT(config, seed=1)
model.generation_config |= dict(eos_token_id=int(end), max_new_tokens=width, do_sample=False)
print(f"{model.n_parameters():,} parameters, {len(training):,} images to learn from")

# ---- training


def shift(images, random):
    """Move some images by a pixel, (B, 1, 8, 8) -> (B, 1, 8, 8)."""
    padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)))
    corners = random.choice([0, 1, 1, 1, 2], (len(images), 2))  # 1 leaves the image in its place
    return np.stack([x[:, i : i + 8, j : j + 8] for x, (i, j) in zip(padded, corners, strict=True)])


optimizer = AdamW(model.named_parameters(), betas=(0.9, 0.99), weight_decay=0.1)
random = np.random.default_rng(1)
for step in range(options.steps):
    chosen = random.choice(training, 64)
    text = texts[labels[chosen]]  # (64, N + W)
    targets = text[:, 1:].copy()
    targets[:, : N - 1] = -100  # where a patch follows: no loss
    _, loss = model(text[:, :-1], targets, pixel_values=shift(images[chosen], random))
    loss.backward()
    clip_grad_norm(model.parameters(), max_norm=1.0)
    optimizer.step(learning_rate_at(step, 2e-3, 2e-4, warmup=50, decay_until=options.steps))
    optimizer.zero_grad()
    if step % 250 == 0 or step == options.steps - 1:
        print(f"step {step:>4}  loss {loss.item():.4f}")
model.eval()

# ---- reading the images that it never saw

wanted = names[labels[held_out]]  # (360, W)
written = model.generate(texts[labels[held_out], :N], pixel_values=images[held_out])[:, N:]
written = np.pad(written, ((0, 0), (0, width - written.shape[1])), constant_values=end)
is_right = (written == wanted).all(axis=1)  # the whole name, letter by letter

if options.save:
    model.save_pretrained(options.save)
    save_tokenizer(tokenizer, options.save)

# ---- from a wrong letter back to the pixels

if not is_right.all():
    i = is_right.argmin()
    k = (written[i] != wanted[i]).argmax()  # the first wrong letter
    letters = [tokenizer.decode([row[i, k]]) for row in (written, wanted)]
    text = texts[labels[held_out[i]]][None, : N + k]  # what it had read and written before
    pixels = autograd.tensor(images[held_out[i]][None], requires_grad=True)  # (1, 1, 8, 8)
    with autograd.record():
        logits, _ = model(text, pixel_values=pixels)
        margin = logits[0, -1, written[i, k]] - logits[0, -1, wanted[i, k]]
    if options.step:
        autograd.step(margin)
    (gradient,) = autograd.grad(margin, [pixels])
    adds = (gradient.numpy() * pixels.numpy())[0, 0]  # (8, 8)

    name = tokenizer.decode(written[i]).split(END)[0]
    print(f"\nimage {held_out[i]} shows {NAMES[labels[held_out[i]]]!r}, and is read as {name!r}")
    print(
        f"What its pixels add to the logit of {letters[0]!r} minus that of {letters[1]!r} "
        f"({margin.item():+.2f}):\nthe gradient of each pixel, times the pixel\n"
    )
    for shades, numbers in zip(pixels.numpy()[0, 0], adds, strict=True):
        picture = "".join(2 * " ░▒▓█"[round(4 * float(shade))] for shade in shades)
        print(f"  {picture}   " + " ".join(f"{x:+5.2f}" if x else "    ." for x in numbers))
    if options.save:
        np.save(Path(options.save) / "misread.npy", pixels.numpy()[0])
    if options.picture:
        title = f"What each pixel adds to {letters[0]!r} in the place of {letters[1]!r}"
        sides = [str(n) for n in range(8)]
        write_text(options.picture, heat_map(adds, sides, sides, title) + "\n")

print(
    f"\n{is_right.sum()} of {len(is_right)} held-out images are read right: {is_right.mean():.1%}"
)
