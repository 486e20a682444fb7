"""The built-in cells: rnn, lstm, gru. Entry points register them, like those of any plugin."""
