"""From a model to text: sampling, the loop, sessions, what is copied."""
