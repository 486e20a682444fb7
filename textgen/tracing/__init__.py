"""From a torch model to its stored step: what `textgen.runtime` runs."""
