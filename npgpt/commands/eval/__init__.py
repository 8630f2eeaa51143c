"""The commands of ``npgpt eval``; see `npgpt.commands`."""

TITLE = "how good a model is, in numbers with their 95 % intervals"
COMMANDS = {
    "language_modelling": (
        "FILE [--model DIR] [--stride N] [--baseline FILE]",
        "How well a model predicts a text: loss, perplexity, bits per character and per byte.",
    ),
    "classification": (
        "FILE|DIR [--model DIR] [--labels A,B] [--shots FILE]",
        "How often a model names the right label: accuracy, macro F1, calibration, confusion.",
    ),
    "similarity": (
        "FILE [--model DIR]",
        "How well the cosine of two sentences' vectors agrees with people: Pearson, Spearman.",
    ),
    "generation": (
        "FILE [--model DIR] [--shots FILE] | [--written FILE]",
        "How near what a model writes is to references: exact match, F1, ROUGE, BLEU, chrF.",
    ),
    "choices": (
        "FILE [--model DIR]",
        "How often a model finds the right answer, or the right sentence of a pair, more probable.",
    ),
}
END = "Each takes --json: the model, the hashes of the data, the settings and the numbers."
