"""Fine-tune MiniLM to answer questions by a part of a text, on stories that the program makes up.

    python examples/answers.py [--model minilm] [--steps 100] [--save FOLDER]

A story says of three people where each lives, what each does and what each eats. The model must
find the sentence about the person of the question, and the words in it that answer. The facts are
drawn at random for each story, so no answer can be learned by heart. In the end the model answers
about one story, and about somebody who does not occur in it.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from npgpt import TrainConfig, UserError, load_model, load_tokenizer
from npgpt.evaluation.spans import find_answer, read_spans
from npgpt.tokenizers.training import train_wordpiece
from npgpt.training.display import Display
from npgpt.training.run import start, train

parser = argparse.ArgumentParser()
parser.add_argument("--model", default="minilm", help="the BERT to start from, or scratch")
parser.add_argument("--steps", type=int, default=100)
parser.add_argument("--save", metavar="FOLDER", help="keep the run, for npgpt answer")
options = parser.parse_args()
random = np.random.default_rng(0)

# ---- stories, with questions

FACTS = {
    "Where does {} live?": ("{} lives in {}.", ["Rome", "New York", "Oslo", "Lima", "Old Delhi"]),
    "What does {} do?": ("{} works as a {}.", ["nurse", "train driver", "cook", "poet", "judge"]),
    "What does {} eat?": ("{} likes to eat {}.", ["rice", "fried eggs", "figs", "plums", "soup"]),
}
NAMES = "Anna Ben Carla Dan Eve Finn Gina Hugo Ida Jon".split()


def tell():
    """Return a story about three people in SQuAD's form: a context, and a question on each fact."""
    facts = [
        (question.format(name), sentence, name, str(random.choice(answers)))
        for name in random.choice(NAMES, 3, replace=False)
        for question, (sentence, answers) in FACTS.items()
    ]
    context, asked = "", []
    for n in random.permutation(len(facts)):
        question, sentence, name, answer = facts[n]
        start = len(context) + sentence.format(name, "\0").index("\0")
        asked.append({"question": question, "answers": [{"text": answer, "answer_start": start}]})
        context += sentence.format(name, answer) + " "
    return {"context": context.strip(), "qas": asked}


folder = Path(tempfile.mkdtemp())
for name, n_stories in [("train.json", 600), ("held_out.json", 20)]:
    stories = {"data": [{"paragraphs": [tell() for _ in range(n_stories)]}]}
    (folder / name).write_text(json.dumps(stories), encoding="utf-8")

# ---- training

if options.model == "scratch":
    texts = "".join(
        f"{each.question} {each.context} " for each in read_spans(folder / "train.json")
    )
    vocabulary = "".join(f"{token}\n" for token in train_wordpiece(texts, 120).vocab)
    (folder / "vocab.txt").write_text(vocabulary, encoding="utf-8")
    start_from = dict(
        model_type="bert", n_layer=2, n_head=4, n_embd=64, dropout=0.0, norm_position="pre",
        tokenizer=str(folder / "vocab.txt"), learning_rate=2e-3, batch_size=32,
    )  # fmt: skip
else:
    start_from = dict(init_from=options.model, learning_rate=2e-4, batch_size=16)
config = TrainConfig(
    task="spans", data=(str(folder / "train.json"),), val_data=(str(folder / "held_out.json"),),
    block_size=96, max_iters=options.steps, warmup_iters=10, min_lr=2e-5, eval_interval=50,
    sample_tokens=0, out_dir=options.save or str(folder / "run"), seed=1, **start_from,
)  # fmt: skip
try:
    run = start(config)
except UserError as error:
    sys.exit(str(error))
train(run, Display(options.steps))

# ---- answers to questions on a story that it has not seen

model, tokenizer = load_model(run.folder), load_tokenizer(run.folder)
held_out = read_spans(folder / "held_out.json")
story = [each for each in held_out if each.context == held_out[0].context]
print(f"\n{story[0].context}\n")
stranger = next(name for name in NAMES if name not in story[0].context)
for question in [*(each.question for each in story), f"Where does {stranger} live?"]:
    found = find_answer(model, tokenizer, question, story[0].context)
    print(f"{question:<22} {found.answer:<14} {found.score:.2f}")
print(f"\n{stranger} does not occur in the story: the model can only choose a part of it.")

answers = [find_answer(model, tokenizer, each.question, each.context).answer for each in held_out]
n_right = sum(answer == each.answers[0] for answer, each in zip(answers, held_out, strict=True))
print(f"{n_right} of {len(held_out)} held-out questions are answered right")
