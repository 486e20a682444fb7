"""The cells that come with textgen: rnn, lstm, gru. They are found as anyone's are, by entry point."""
