"""Running a model's step without torch: the graph stored with a model, and its execution by numpy."""
