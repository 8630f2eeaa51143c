"""The commands of ``npgpt look``; see `npgpt.commands`."""

TITLE = "what a model does with a text"
_USAGE = "--model DIR --text TEXT"
COMMANDS = {
    "attention": (
        f"{_USAGE} [--layer N] [--head N]",
        "Where heads look: what each mostly looks at, or the map of one head.",
    ),
    "lens": (
        f"{_USAGE} [--position N]",
        "What each layer would predict, if it were the last one.",
    ),
    "surprise": (_USAGE, "How much each token surprises the model, and what it expected."),
    "attribution": (
        f"{_USAGE} [--token TEXT] [--against TEXT]",
        "What the heads, the MLPs and the embedding add to the logit of the next token; with "
        "--gradients, what each token of the text adds.",
    ),
}
END = "Each takes --html FILE, a page with heat maps, and --json. Without --model: the latest run."
