"""Suggestions: a typo is answered with the name that was meant, and any other word with nothing."""

import pytest

from textgen.errors import did_you_mean

CELLS = ["elman", "gru", "indrnn", "lnlstm", "lstm", "mingru", "mlstm", "mogrifier", "rnn", "slstm"]
OPTIONS = [
    "batch_size",
    "cell",
    "dropout",
    "embedding_size",
    "forget_bias",
    "hidden_size",
    "learning_rate",
    "max_steps",
]
FILES = ["alice.txt", "notes.txt", "shakespeare.txt", "story.csv"]
COLUMNS = ["id", "text", "label", "body"]
COMMANDS = ["again", "help", "quit", "save", "show", "undo", "write"]

TYPOS = [
    ("lsmt", "lstm", CELLS), ("lstmm", "lstm", CELLS), ("LSTM", "lstm", CELLS), ("lnstm", "lnlstm", CELLS),
    ("gur", "gru", CELLS), ("mingr", "mingru", CELLS), ("elmann", "elman", CELLS), ("mogrifer", "mogrifier", CELLS),
    ("in-drnn", "indrnn", CELLS), ("hidden-size", "hidden_size", OPTIONS), ("hidden_sise", "hidden_size", OPTIONS),
    ("hiden_siez", "hidden_size", OPTIONS), ("forget", "forget_bias", OPTIONS),
    ("embedingsize", "embedding_size", OPTIONS),
    ("droput", "dropout", OPTIONS), ("learningrate", "learning_rate", OPTIONS),
    ("rate", "learning_rate", OPTIONS),
    ("steps", "max_steps", OPTIONS), ("clel", "cell", OPTIONS), ("shakespere.txt", "shakespeare.txt", FILES),
    ("alise.txt", "alice.txt", FILES), ("story", "story.csv", FILES), ("texd", "text", COLUMNS),
    ("labels", "label", COLUMNS), ("Text ", "text", COLUMNS), ("bdy", "body", COLUMNS), ("agin", "again", COMMANDS),
    ("wirte", "write", COMMANDS),
]  # fmt: skip
OTHERS = [
    ("lru", CELLS), ("sru", CELLS), ("cnn", CELLS), ("transformer", CELLS), ("mamba", CELLS), ("last", CELLS),
    ("first", CELLS), ("", CELLS), ("x", CELLS), ("size", OPTIONS), ("momentum", OPTIONS), ("top_k", OPTIONS),
    ("bias_init", OPTIONS), ("zebra.txt", FILES), ("a.txt", FILES), ("txt", FILES), ("ie", COLUMNS), ("title", COLUMNS),
    ("date", COLUMNS), ("category", COLUMNS), ("edit", COMMANDS), ("stop", COMMANDS), ("exit", COMMANDS),
]  # fmt: skip


@pytest.mark.parametrize(("typed", "meant", "known"), TYPOS)
def test_a_typo_is_answered_with_the_name_that_was_meant(typed, meant, known):
    assert did_you_mean(typed, known) == did_you_mean(typed, iter(known)) == f" Did you mean {meant!r}?"


@pytest.mark.parametrize(("typed", "known"), OTHERS)
def test_another_word_is_answered_with_nothing(typed, known):
    assert did_you_mean(typed, known) == ""
