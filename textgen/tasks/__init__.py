"""Tasks: what they have in common, and the language modeling task."""
