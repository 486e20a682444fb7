"""How well a model predicts: loss, bits, and their proof by compression."""
