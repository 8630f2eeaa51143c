"""Ask a model for capitals, and compare how sure it is when it is right and when it is wrong.

    python benchmarks/facts.py [--model smollm2]

The tables are in docs/limits.md. The prompt has three examples. The sureness of an answer is the
probability that the model gives to the whole answer.
"""

import argparse

import numpy as np

from npgpt import UserError, generate, load_model, load_tokenizer
from npgpt.evaluation.choices import encode_prompt
from npgpt.evaluation.few_shot import FewShot
from npgpt.evaluation.metrics import estimate
from npgpt.evaluation.result import Table
from npgpt.evaluation.written import exact_match
from npgpt.hub import find_model

TASK = FewShot(
    "Country: {input}\nCapital: {output}",
    [("France", "Paris"), ("Japan", "Tokyo"), ("Italy", "Rome")],
)
CAPITALS = {
    "with more than 30 million people": {
        "Germany": "Berlin", "Spain": "Madrid", "Egypt": "Cairo", "China": "Beijing",
        "Russia": "Moscow", "Canada": "Ottawa", "Argentina": "Buenos Aires", "Poland": "Warsaw",
        "Thailand": "Bangkok", "Kenya": "Nairobi", "Brazil": "Brasilia", "India": "New Delhi",
        "Turkey": "Ankara", "Ukraine": "Kyiv/Kiev", "Iran": "Tehran", "Iraq": "Baghdad",
        "Mexico": "Mexico City", "Colombia": "Bogota", "Vietnam": "Hanoi", "Pakistan": "Islamabad",
    },
    "with fewer than 10 million people": {
        "Norway": "Oslo", "Iceland": "Reykjavik", "Slovenia": "Ljubljana", "Bhutan": "Thimphu",
        "Laos": "Vientiane", "Paraguay": "Asuncion", "Eritrea": "Asmara", "Suriname": "Paramaribo",
        "Fiji": "Suva", "Latvia": "Riga", "Botswana": "Gaborone", "Lesotho": "Maseru",
        "Tonga": "Nuku'alofa", "Moldova": "Chisinau", "Gambia": "Banjul", "Belize": "Belmopan",
        "Palau": "Ngerulmud", "Oman": "Muscat", "Malta": "Valletta",
        "Brunei": "Bandar Seri Begawan",
    },
}  # fmt: skip


def main() -> None:
    """Print two tables in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2")
    try:
        path = find_model(parser.parse_args().model)
        model, tokenizer = load_model(path, packed=True), load_tokenizer(path)
    except UserError as error:
        parser.error(str(error))
    rows, wrong, sureness, rights = [], [], [], []
    for group, capitals in CAPITALS.items():
        right = []
        for country, capital in capitals.items():
            ids = encode_prompt(tokenizer, TASK.prompt(country, tokenizer))
            found = generate(
                model, ids, tokenizer=tokenizer, max_new_tokens=12, do_sample=False,
                repetition_penalty=1.0, stop_strings=["\n"], output_logprobs=True,
            )  # fmt: skip
            answer = tokenizer.decode(found.sequences[0, len(ids) :]).split("\n")[0].strip()
            right.append(max(exact_match(answer, name) for name in capital.split("/")))
            sureness.append(np.exp(found.logprobs[0].sum()))
            if not right[-1]:
                wrong.append([country, answer, capital, f"{sureness[-1]:.2f}"])
        rows.append([group, str(len(right)), str(estimate(np.mean, np.array(right)))])
        rights += right
    print(Table(["countries", "asked", "right"], rows), "\n")
    print(Table(["country", "the model's answer", "capital", "sureness"], wrong), "\n")
    is_right, sure = np.array(rights, bool), np.array(sureness)
    rows = [
        [name, str(estimate(np.mean, sure[which])) if which.any() else "none"]
        for name, which in (("right", is_right), ("wrong", ~is_right))
    ]
    print(Table(["answers", "mean sureness"], rows))


if __name__ == "__main__":
    main()
