"""Train a GPT to read images of digits and write their names, then ask which pixels misled it.

    python examples/10_images.py [--steps 600] [--step] [--picture FILE.svg] [--save FOLDER]

The images are the 1,797 handwritten digits of scikit-learn, 8 x 8 pixels (``pip install
'npgpt[eval]'``). An image is cut into four patches, one linear layer makes a vector of each, and
the GPT reads these vectors as if they were the first four tokens. Then it writes: s, e, v, e, n. Of
an image that it misreads, the program shows what each pixel adds to the first wrong letter. With
``--step``, the stepper walks from this letter back to the pixels. The training is a run like any
other (``npgpt train --task images``): with ``--save``, its folder is kept.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

import autograd
from autograd.files import write_text
from npgpt import load_model
from npgpt.diagnostics.page import heat_map
from npgpt.diagnostics.pixels import beside
from npgpt.training.config import TrainConfig
from npgpt.training.display import Display
from npgpt.training.run import start, train

NAMES = "zero one two three four five six seven eight nine".split()

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=600)
parser.add_argument("--step", action="store_true", help="walk back to the pixels in the stepper")
parser.add_argument("--picture", metavar="FILE", help="draw what each pixel adds, as SVG")
parser.add_argument("--save", metavar="FOLDER", help="keep the run there, and a misread image")
options = parser.parse_args()
folder = Path(options.save or tempfile.mkdtemp())

# ---- images, and the texts that belong to them

images, labels = load_digits(return_X_y=True)  # pixels from 0 to 16
images = np.rint(images.reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8)
order = np.random.default_rng(0).permutation(len(images))
held_out, training = order[:360], order[360:]
file = Path(tempfile.mkdtemp()) / "digits.npz"
np.savez(file, images=images[training], texts=[NAMES[label] for label in labels[training]])

# ---- training

config = TrainConfig(
    task="images", data=(str(file),), patch_size=4, block_size=10, n_layer=2, n_head=4, n_embd=64,
    bias=True, batch_size=64, max_iters=options.steps, learning_rate=2e-3, min_lr=2e-4,
    warmup_iters=50, eval_interval=200, out_dir=str(folder), seed=1,
)  # fmt: skip
run = start(config)
print(f"{run.model.n_parameters():,} parameters, {len(training):,} images to learn from")
train(run, Display(options.steps))
model, task = load_model(folder), run.task

# ---- reading the images that it never saw

N = model.config.n_patches
pixels = images[held_out] / np.float32(255)  # (360, 1, 8, 8)
patches = np.full((len(held_out), N), model.config.image_token_id)
written = model.generate(patches, pixel_values=pixels)[:, N:]
names = [task.tokenizer.decode(row, skip_special_tokens=True) for row in written]
is_right = np.array(
    [name == NAMES[label] for name, label in zip(names, labels[held_out], strict=True)]
)

# ---- from a wrong letter back to the pixels

if not is_right.all():
    i = is_right.argmin()
    name, right = names[i], NAMES[labels[held_out[i]]]
    # What it had read and written before the first wrong letter, and the two letters there. After
    # its last letter, a name has the end token.
    ids, wanted = (
        written[i],
        [*task.tokenizer.encode(right), model.generation_config["eos_token_id"]],
    )
    k = next(k for k in range(len(ids)) if ids[k] != wanted[k])
    text = np.concatenate([patches[i], ids[:k]])[None]  # (1, N + k)
    letters = [task.tokenizer.decode([token]) for token in (ids[k], wanted[k])]
    image = autograd.tensor(pixels[i][None], requires_grad=True)  # (1, 1, 8, 8)
    with autograd.record():
        logits, _ = model(text, pixel_values=image)
        margin = logits[0, -1, ids[k]] - logits[0, -1, wanted[k]]
    if options.step:
        autograd.step(margin)
    (gradient,) = autograd.grad(margin, [image])
    adds = (gradient.numpy() * image.numpy())[0]  # (1, 8, 8)

    print(f"\nimage {held_out[i]} shows {right!r}, and is read as {name!r}")
    print(
        f"What its pixels add to the logit of {letters[0]!r} minus that of {letters[1]!r} "
        f"({margin.item():+.2f}):\nthe gradient of each pixel, times the pixel\n"
    )
    for line in beside(pixels[i], adds):
        print(f"  {line}")
    if options.save:
        np.save(folder / "misread.npy", images[held_out[i]])
    if options.picture:
        title = f"What each pixel adds to {letters[0]!r} in the place of {letters[1]!r}"
        sides = [str(n) for n in range(8)]
        write_text(options.picture, heat_map(adds[0], sides, sides, title) + "\n")

print(
    f"\n{is_right.sum()} of {len(is_right)} held-out images are read right: {is_right.mean():.1%}"
)
