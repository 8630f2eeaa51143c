"""The commands of ``npgpt eval``; see `npgpt.commands`."""

TITLE = "how good a model is, in numbers with their 95 % intervals"
COMMANDS = {
    "language_modelling": (
        "FILE [--model DIR] [--stride N] [--baseline FILE]",
        "Measure how well a model predicts a text: loss, perplexity, bits per character and byte.",
    ),
    "classification": (
        "FILE|DIR [--model DIR] [--labels A,B] [--shots FILE]",
        "Measure how often a model names the right label: accuracy, macro F1, calibration, "
        "confusion matrix.",
    ),
    "similarity": (
        "FILE [--model DIR]",
        "Measure how well the cosine of two sentences' vectors agrees with people's scores: "
        "Pearson, Spearman.",
    ),
    "spans": (
        "FILE [--model DIR]",
        "Measure how well a model finds answers in texts: exact match, token F1.",
    ),
    "generation": (
        "FILE [--model DIR] [--shots FILE] | [--written FILE]",
        "Measure how near the texts that a model writes are to references: exact match, F1, ROUGE, "
        "BLEU, chrF.",
    ),
    "choices": (
        "FILE [--model DIR]",
        "Measure how often a model gives the right answer, or the right sentence of a pair, the "
        "highest probability.",
    ),
}
END = "Each takes --json: the model, the hashes of the data, the settings and the numbers."
