"""Train a small GPT from Python and let it write: everything that `npgpt train` does, in the open.

    python examples/02_train_and_generate.py [TEXT_FILE] [--steps 300]

Without a file the text is the source of Python's own modules whose names begin with t: enough to
see the loss fall and words appear in under a minute.
"""

import argparse
import inspect
from pathlib import Path

import numpy as np

from npgpt import GPT, GPTConfig
from npgpt.evaluation.loss import whole_loss
from npgpt.tokenizers import CharTokenizer
from npgpt.training.data import random_batch, split_tokens
from npgpt.training.optim import AdamW, clip_grad_norm, learning_rate_at

parser = argparse.ArgumentParser()
parser.add_argument("file", nargs="?", type=Path)
parser.add_argument("--steps", type=int, default=300)
options = parser.parse_args()

# ---- text to tokens

if options.file:
    text = options.file.read_text(encoding="utf-8")
else:
    library = Path(inspect.__file__).parent
    text = "\n".join(path.read_text(encoding="utf-8") for path in sorted(library.glob("t*.py")))
tokenizer = CharTokenizer.from_text(text)
train_tokens, validation_tokens = split_tokens(tokenizer.encode(text), block_size=32)
print(f"{len(text):,} characters, {tokenizer.n_vocab} of them distinct")

# ---- a model and its optimizer

config = GPTConfig(
    vocab_size=tokenizer.n_vocab, block_size=32, n_layer=2, n_head=4, n_embd=64,
    resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
)  # fmt: skip
model = GPT(config, seed=1)
optimizer = AdamW(model.named_parameters(), betas=(0.9, 0.99), weight_decay=0.1)
print(f"{model.n_parameters():,} parameters\n")

# ---- training: predict the next character, at every position at once

random = np.random.default_rng(1)
for step in range(options.steps + 1):
    if step % 50 == 0 or step == options.steps:
        print(f"step {step:>4}  validation loss {whole_loss(model, validation_tokens):.3f}")
    inputs, targets = random_batch(train_tokens, batch_size=16, block_size=32, generator=random)
    logits, loss = model(inputs, targets)  # forward, (16, 32) -> (16, 32, V)
    loss.backward()  # every parameter's .grad
    clip_grad_norm(model.parameters(), max_norm=1.0)
    optimizer.step(learning_rate_at(step, 3e-3, 3e-4, warmup=20, decay_until=options.steps))
    optimizer.zero_grad()

# ---- generation

prompt = tokenizer.encode(text[:4])
ids = model.generate(prompt, max_new_tokens=200, do_sample=True, temperature=0.8, top_k=0, seed=1)
print("\n" + tokenizer.decode(ids[0]))
