"""Starting from a trained model: symbols keep their meaning whatever their number."""

import pytest

import textgen
from textgen.data.tokenizers import train_tokenizer
from textgen.errors import TextgenError
from textgen.training.pretrained import match, names

OLD = "abcabcabc the fox ran to the den and the hen ran home\n" * 60
NEW = "the hen and the fox sat in a den; zebra\n" * 60


def train(tmp_path, text, name, **options):
    source = tmp_path / f"{name}.txt"
    source.write_text(text)
    small = {"max_steps": 40, "hidden_size": 24, "learning_rate": 0.02, "threads": 1, "sample_steps": 0}
    if "init_from" in options:
        del small["hidden_size"]
    return textgen.train(source, output_dir=str(tmp_path / name), **{**small, "tokenizer": "char", **options})


def nats(folder, text):
    return textgen.evaluate(textgen.load(folder), text).nats_per_character


def test_the_same_symbols_in_another_order_are_matched_by_name():
    old, new = (train_tokenizer("char", [[text.encode()]]) for text in ("abcdé", "éxcba"))
    rows = match(new, old).rows
    assert [rows[new.token_bytes.index(s.encode())] for s in "abcé"] == [
        old.token_bytes.index(s.encode()) for s in "abcé"
    ]
    assert match(new, old).new == ["x"] and rows[new.boundary] == old.boundary


@pytest.mark.parametrize("kind", ["char", "byte", "bpe", "unigram", "word"])
def test_every_symbol_has_one_name(kind):
    tokenizer = train_tokenizer(kind, [[OLD.encode()]], 300)
    assert len(set(names(tokenizer))) == tokenizer.vocab_size
    assert match(tokenizer, tokenizer).rows == list(range(tokenizer.vocab_size))


def test_a_vocabulary_of_the_same_size_in_another_order_does_not_garble(tmp_path):
    """One symbol is missing and another is new, so that every id between them means another character."""
    shifted = OLD.replace("m", "!")
    base = train(tmp_path, OLD, "base", max_steps=150)
    tuned = train(tmp_path, shifted, "tuned", init_from=str(base), max_steps=1, learning_rate=1e-6)
    assert textgen.load(tuned).tokenizer.vocab_size == textgen.load(base).tokenizer.vocab_size
    known = OLD.replace("m", "")[:400]
    assert nats(tuned, known) < nats(base, known) + 0.2


def test_finetuning_starts_ahead(tmp_path):
    base = train(tmp_path, OLD, "base", max_steps=150)
    cold = train(tmp_path, NEW, "cold", max_steps=15)
    warm = train(tmp_path, NEW, "warm", max_steps=15, init_from=str(base))
    assert nats(warm, NEW[:400]) < nats(cold, NEW[:400])


def test_what_cannot_be_taken_over_is_named(tmp_path):
    base = train(tmp_path, OLD, "base", max_steps=3)
    with pytest.raises(TextgenError, match="hidden_size=32 cannot change with init_from"):
        train(tmp_path, OLD, "wider", init_from=str(base), hidden_size=32)
    with pytest.raises(TextgenError, match="tie_weights=True cannot change with init_from"):
        train(tmp_path, OLD, "tied", init_from=str(base), tie_weights=True)
    elman = train(tmp_path, OLD, "elman", cell="rnn", max_steps=1)
    with pytest.raises(
        TextgenError, match=r"cell_options=nonlinearity relu cannot change with init_from \(it has tanh\)"
    ):
        train(tmp_path, OLD, "relu", init_from=str(elman), cell_options={"nonlinearity": "relu"})
    train(tmp_path, OLD, "tanh", init_from=str(elman), cell_options={"nonlinearity": "tanh"}, max_steps=1)
    with pytest.raises(TextgenError, match="char tokenizer; byte tokens"):
        train(tmp_path, OLD, "bytes", init_from=str(base), tokenizer="byte")
    with pytest.raises(TextgenError, match="no model folder 'nowhere'"):
        train(tmp_path, OLD, "lost", init_from="nowhere")
