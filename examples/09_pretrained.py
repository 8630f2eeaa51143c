"""Read a text with a pretrained model: which tokens surprise it, and in which layer it decides.

    python examples/09_pretrained.py MODEL [--text TEXT] [--top 5]

MODEL is a folder with weights (GPT-1's or GPT-2's in Hugging Face's layout, OpenAI's release of
GPT-1, a run of `npgpt train`, what `examples/08_sorter.py --save FOLDER` writes) or, with
``pip install 'npgpt[hub]'``, a name on the Hugging Face hub such as ``gpt2``.
"""

import argparse
import sys

import numpy as np

from autograd import nn, no_grad
from npgpt import GPT, UserError, load_tokenizer
from npgpt.hub import find_model

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("--text", default="Once upon a time, in a faraway land, there lived a king")
parser.add_argument("--top", type=int, default=5, help="how many continuations to show")
options = parser.parse_args()

try:
    folder = find_model(options.model)
    model, tokenizer = GPT.from_pretrained(folder).eval(), load_tokenizer(folder)
    ids = np.array([tokenizer.encode(options.text)])  # (1, T)
except UserError as error:
    sys.exit(str(error))
if not 2 <= ids.shape[1] <= model.config.n_positions:
    sys.exit(f"the text has {ids.shape[1]} tokens; 2 to {model.config.n_positions} can be read")
tokens = [tokenizer.decode([i]) for i in ids[0]]
print(f"{model.n_parameters():,} parameters, {model.config.n_layer} layers; {ids.shape[1]} tokens")

with no_grad():
    inside = model.activations(ids)
    logits = model.lm_head(inside.hidden_states[-1])[0]  # (T, V)
    log_p = nn.log_softmax(logits).numpy()

# ---- how much each token surprises the model, given the tokens before it

bits = -np.take_along_axis(log_p[:-1], ids[0, 1:, None], axis=-1)[:, 0] / np.log(2)  # (T - 1,)
print(f"\nsurprise, in bits (mean {bits.mean():.2f}); a token of p = 1/2 has one")
for token, value in zip(tokens[1:], bits, strict=True):
    print(f"  {token!r:>14} {value:6.2f} {'█' * round(2 * value)}")

# ---- the next token that the model predicts, and the layer in which it decides

best = log_p[-1].argsort()[::-1][: options.top]
print(f"\nafter {''.join(tokens[-4:])!r}")
for i in best:
    print(f"  {tokenizer.decode([i])!r:>14} {np.exp(log_p[-1, i]):6.1%}")

print(
    "\nread by the head after each layer, the last position says (Nostalgebraist 2020's logit lens)"
)
norm = model.transformer.ln_f
for layer, hidden in enumerate(inside.hidden_states):
    with no_grad():
        x = hidden[:, -1]  # (1, C); the last hidden state is normalized as it is
        if norm is not None and layer < model.config.n_layer:
            x = norm(x)
        p = nn.softmax(model.lm_head(x)).numpy()[0]  # (V,)
    i = p.argmax()
    print(f"  {layer:>2}  {tokenizer.decode([i])!r:>14} {p[i]:6.1%}")

# ---- the positions to which the last position attends

print("\nthe last position looks at")
for layer, attention in enumerate(inside.attentions):  # (1, H, T, T)
    mean = attention.numpy()[0, :, -1].mean(axis=0)  # (H, T) -> (T,)
    most = mean.argsort()[::-1][:3]
    print(f"  layer {layer:>2}: " + ", ".join(f"{tokens[t]!r} {mean[t]:.0%}" for t in most))
