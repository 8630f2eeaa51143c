"""Write docs/pictures, what SmolLM2 does with a sentence: ``python docs/make_pictures.py``.

The pictures are committed, since they need the model: ``npgpt models add smollm2``.
"""

from pathlib import Path

import npgpt
from autograd.files import write_text
from npgpt.diagnostics.direct import attribute_directly
from npgpt.diagnostics.inside import attention_maps, surprises
from npgpt.diagnostics.page import heat_map
from npgpt.say import visible

SENTENCE = "The Eiffel Tower stands in the city of Paris. The capital of France is"
LAYER, HEAD = 23, 4
FOLDER = Path(__file__).parent / "pictures"


def main() -> None:
    """Write the pictures."""
    model, tokenizer = npgpt.load_model("smollm2"), npgpt.load_tokenizer("smollm2")
    ids = tokenizer.encode(SENTENCE)
    tokens = [visible(tokenizer.tokens[i]) for i in ids.tolist()]
    (answer,) = tokenizer.encode(" Paris").tolist()
    FOLDER.mkdir(exist_ok=True)

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
