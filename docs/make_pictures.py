"""Write docs/pictures, a page and what SmolLM2 does: ``python docs/make_pictures.py``.

The pictures are committed, since they need a browser (``pip install '.[browser]'``, and Chromium)
and the model (``npgpt models add smollm2``).
"""

import shutil
import tempfile
from pathlib import Path

from make_gallery import link_to_cotangent, trace_script
from playwright.sync_api import sync_playwright

import npgpt
from autograd.files import write_text
from npgpt.diagnostics.direct import attribute_directly
from npgpt.diagnostics.inside import attention_maps, surprises
from npgpt.diagnostics.page import heat_map
from npgpt.say import visible

SENTENCE = "The Eiffel Tower stands in the city of Paris. The capital of France is"
LAYER, HEAD = 23, 4
FOLDER = Path(__file__).parent / "pictures"
SIZE = {"width": 1120, "height": 640}  # of the window with the page
NET = """\
import numpy as np
import autograd
from autograd import nn

X = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
t = np.array([0, 1, 1, 0])  # exclusive or
rng = np.random.default_rng(4)
W1, W2 = (
    autograd.tensor(rng.normal(size=n), requires_grad=True)
    for n in [(2, 3), (3, 2)]
)
b1 = autograd.tensor([0.1, -0.2, 0.3], requires_grad=True)

a = X @ W1
z = a + b1
h = np.tanh(z)
y = h @ W2
loss = nn.cross_entropy(y, t)
loss.backward()
"""


def main() -> None:
    """Write the pictures."""
    FOLDER.mkdir(exist_ok=True)
    write_page_picture()
    write_model_pictures()


def write_page_picture() -> None:
    """Write the page of a net of two layers: a gradient, as a sum over the examples."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        script, file = Path(folder, "net.py"), Path(folder, "net.html")
        write_text(script, NET)
        trace = trace_script(script)
        trace.to_html(file)
        path = shutil.which("chromium") or shutil.which("chromium-browser")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE, device_scale_factor=1.5, color_scheme="light")
        page.goto(f"{file.as_uri()}{link_to_cotangent(trace, 'W2', (1, 0))}")
        page.screenshot(path=FOLDER / "page.png")
        browser.close()


def write_model_pictures() -> None:
    """Write what SmolLM2 looks at, what surprises it, and what adds to its prediction."""
    model, tokenizer = npgpt.load_model("smollm2"), npgpt.load_tokenizer("smollm2")
    ids = tokenizer.encode(SENTENCE)
    tokens = [visible(tokenizer.tokens[i]) for i in ids.tolist()]
    (answer,) = tokenizer.encode(" Paris").tolist()

    weights = attention_maps(model, ids)[LAYER, HEAD]
    title = f"Where the tokens look: layer {LAYER}, head {HEAD} of SmolLM2"
    write_text(FOLDER / "attention.svg", heat_map(weights, tokens, tokens, title) + "\n")

    found = surprises(model, ids).surprises[None]
    picture = heat_map(found, ["surprise"], tokens[1:], "The surprise of each token")
    write_text(FOLDER / "surprise.svg", picture + "\n")

    heads = attribute_directly(model, ids, answer).heads.sum(axis=-1)[20:]
    rows = [f"layer {i}" for i in range(20, 30)]
    columns = [f"head {i}" for i in range(heads.shape[1])]
    title = "What the heads of the last ten layers add to the logit of Paris"
    write_text(FOLDER / "heads.svg", heat_map(heads, rows, columns, title) + "\n")


if __name__ == "__main__":
    main()
