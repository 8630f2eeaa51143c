"""The commands of ``npgpt``: one file each, and the table that dispatch, help and completion use.

The file of a command holds ``Options``, a data class (see `npgpt.options`), and ``run(args)``,
which takes the words after the command's name and returns the exit code. To add a command, write
its file, and add its name to the table, with its usage and what the command does. A command that
has commands itself, such as ``tokenizer``, is a package with a table of its own.
"""

TITLE = "GPT in plain NumPy"
COMMANDS = {
    "train": (
        "[CONFIG.toml] [--data FILE|DIR|GLOB ...] [--KEY VALUE ...]",
        "Train a model. Without --data: on the source code of Python's own library. "
        "--resume DIR continues a run exactly where its last checkpoint stands.",
    ),
    "generate": (
        "[--model DIR] --prompt TEXT | --prompt_file FILE",
        "Let a model continue a text. Without --model: the latest run under out/. Without a "
        "prompt: each line from a pipe is a prompt.",
    ),
    "chat": (
        "[--model DIR] [--system TEXT]",
        "Talk with a model. Without --model: with smollm2, which npgpt models add downloads. In a "
        "terminal, /help lists commands. Each line from a pipe is a message.",
    ),
    "translate": (
        "[--model DIR] [--beams N] [--json] [FILE ...]",
        "Translate the lines of files, or of standard input, with a model that npgpt train --pairs "
        "has trained. Without --model: the latest run under out/.",
    ),
    "fill": (
        "[--model DIR] TEXT ...",
        "Fill the gaps of a text with a BERT, as npgpt train --task masked trains it. Without "
        "--model: the latest run under out/. Each line from a pipe is a text.",
    ),
    "finetune": (
        "[TASK] --train FILE [--model DIR] [--KEY VALUE ...]",
        "Train a model on examples in a table: to name the label of a text (classification), to "
        "give a number to it (regression), to compare texts (similarity), to find an answer in a "
        "text (spans), to answer as an assistant (instructions), or to prefer the better of two "
        "answers (preferences). Without --model: a new model.",
    ),
    "distill": (
        "--teacher DIR [--student DIR] [--data FILE ...] [--KEY VALUE ...]",
        "Train a smaller model on the probabilities of a larger one. Without --student: a new "
        "model with half of the teacher's layers.",
    ),
    "prune": (
        "--model DIR [--heads S] [--channels S] [--layers S] [--data FILE ...] [--KEY VALUE ...]",
        "Make a model smaller and faster: remove the heads, MLP channels or layers that the loss "
        "needs least, and fine-tune what is left.",
    ),
    "scale": (
        "[DIR] [--budget FLOPS] [--predict X] [--target]",
        "Train a ladder of small models, fit how the loss falls with size and data, and predict a "
        "larger model. The same command continues a ladder that was interrupted.",
    ),
    "classify": (
        "TEXT ... | --file FILE --labels A,B",
        "Give each text one of some labels: by a model that was trained to classify, or by how "
        "probable each label is after a few examples (--shots FILE).",
    ),
    "answer": (
        "QUESTION ... | --file FILE --context FILE [--model DIR]",
        "Find the answers to questions in a text, with a model that npgpt finetune spans has "
        "trained. Without --model: the latest run under out/.",
    ),
    "summarize": (
        "[--model DIR] [--json] [FILE ...]",
        "Write a summary of each file, or of standard input. Without --model: with smollm2, which "
        "npgpt models add downloads.",
    ),
    "complete": (
        "TEXT ... | --file FILE --shots FILE",
        "Let a model answer each text as a few examples are answered.",
    ),
    "eval": (
        "language_modelling|classification|similarity|spans|generation|choices",
        "Measure how good a model is on your data, in numbers with their intervals.",
    ),
    "report": (
        "[DIR ...]",
        "Write one page on a run, or on several, in Markdown and HTML: data, tokenizer, training, "
        "evaluations, samples, cost. Without DIR: the latest run under out/.",
    ),
    "embed": (
        "TEXT ... | --file FILE | --nearest TEXT",
        "Vectors of sentences, how similar they are, and the nearest ones. Without --model: with "
        "minilm, which npgpt models add downloads. Each line from a pipe is a sentence.",
    ),
    "info": (
        "[PRESET|DIR] [--compare A B] [--batch N] [--context N]",
        "What a model is and costs: parameters, computation, memory. Without a name: the presets.",
    ),
    "export": (
        "DIR FOLDER | DIR FILE.gguf --gguf",
        "Write a run's model and tokenizer to a new folder that Hugging Face's transformers opens; "
        "with --gguf, to a file that llama.cpp opens.",
    ),
    "models": (
        "list|add|remove",
        "Models by name: npgpt models add smollm2 downloads one to talk to (98 MB).",
    ),
    "tokenizer": (
        "list|add|train|show",
        "Tokenizers: those that are installed, your own, and the tokens they make of a text.",
    ),
    "look": (
        "attention|lens|surprise|attribution",
        "Look inside a model: where heads look at a text, what each layer would predict, what "
        "surprises the model, and what adds to a prediction.",
    ),
    "step": (
        "SCRIPT.py | --model DIR --text TEXT | --run DIR --at STEP",
        "Walk through backpropagation, number by number: a debugger for the backward pass.",
    ),
    "why": (
        "--run DIR --param 'NAME[INDEX]'",
        "The history of one weight over a run, and the batch that moved this weight most.",
    ),
    "lesson": (
        "[N]",
        "Lessons on backpropagation, from three numbers to a transformer block. Without N: a list.",
    ),
    "kata": (
        "[OP]",
        "Write the gradient of an op yourself, and have it checked. Without OP: where to begin.",
    ),
    "profile": (
        "[CONFIG.toml] [--KEY VALUE ...]",
        "What a training step costs, op by op, and how far from the machine's limits that is.",
    ),
    "doctor": ("", "What is wrong with this installation, and how to mend it."),
    "warmup": ("", "Compile all kernels now, so that no later command waits for the compiler."),
    "completion": (
        "bash|zsh",
        'Print a script for the shell: eval "$(npgpt completion bash)" completes commands, options '
        "and files.",
    ),
}
END = "npgpt COMMAND --help lists every option."
