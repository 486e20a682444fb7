"""How well a model predicts text: loss, bits per byte, and compression as their proof."""
