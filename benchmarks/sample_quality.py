"""How many samples of a model are not text: blank, empty, or with U+FFFD.

    python benchmarks/sample_quality.py MODEL... [--samples 100] [--tokens 100] [--min-p X --temperature X]
    python benchmarks/sample_quality.py --train CORPUS [--max-steps 314] [--hidden-size 192]

For each prompt (none, one that ends in a line end or a blank line, one within a line), samples are drawn with the
model's generation config. The table shows how many are more than half whitespace, only whitespace, empty, or contain
U+FFFD; the share of whitespace among all characters, next to that of the training text; and the share of words that do
not occur in the training text.
"""

import argparse
import re
import shutil
import tempfile
from pathlib import Path

import textgen
from textgen.generation.generate import complete, sampling_options
from textgen.training.stored_data import data_of

WORD = re.compile(r"[^\W\d_]+")
PROMPTS = ["", "\n", "\n\n", "Dear", "The end.\n", "The end.\n\n"]


def whitespace(text):
    """The share of whitespace in a text; 0 in an empty one."""
    return sum(map(str.isspace, text)) / max(1, len(text))


def trained(corpus, options, folder):
    """A model of a corpus, trained for so many steps on one thread."""
    sizes = {"hidden_size": options.hidden_size, "max_steps": options.max_steps, "cell": "lstm"}
    return textgen.train(corpus, **sizes, threads=1, output_dir=str(folder), seed=1)


def new_words(text, known):
    """The share of the words of a text, all but the last, that the training text does not have."""
    words = WORD.findall(text)[:-1]
    return sum(word not in known for word in words) / max(1, len(words))


def training_text(folder):
    data = data_of(Path(folder))
    return data.tokenizer.decode(data.written()[:1_000_000])


def measure(folder, options):
    model = textgen.load(folder)
    changed = {"temperature": options.temperature, "min_p": options.min_p}
    chosen = {name: value for name, value in changed.items() if value is not None}
    drawn = sampling_options(model, {"seed": 1, "max_new_tokens": options.tokens, **chosen})
    learned = training_text(folder)
    known = set(WORD.findall(learned))
    print(f"{folder}: temperature {drawn.temperature}, min-p {drawn.min_p}; whitespace in the training text "
          f"{whitespace(learned):.2f}")  # fmt: skip
    print(f"  {'prompt':>16} {'mostly blank':>13} {'only blank':>11} {'empty':>6} {'U+FFFD':>7} {'whitespace':>11} "
          f"{'new words':>10}")  # fmt: skip
    for prompt in PROMPTS:
        texts = [completion.text for completion in complete(model, [prompt] * options.samples, drawn)]
        blank = sum(whitespace(text) > 0.5 for text in texts)
        only = sum(bool(text) and not text.strip() for text in texts)
        broken, empty = sum("\ufffd" in text for text in texts), texts.count("")
        invented = new_words(" ".join(texts), known)
        print(f"  {prompt!r:>16} {blank:>13} {only:>11} {empty:>6} {broken:>7} {whitespace(''.join(texts)):>11.2f} "
              f"{invented:>10.2%}")  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*")
    parser.add_argument("--train", nargs="*", default=[], metavar="CORPUS")
    parser.add_argument("--max-steps", type=int, default=314)
    parser.add_argument("--hidden-size", type=int, default=192)
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--temperature", type=float)
    parser.add_argument("--min-p", type=float)
    options = parser.parse_args()
    for model in options.models:
        measure(model, options)
    folder = tempfile.mkdtemp()
    try:
        for corpus in options.train:
            measure(trained(corpus, options, Path(folder) / Path(corpus).stem), options)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
