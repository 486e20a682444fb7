"""Running a model's step without torch: the graph that is stored with a model, and numpy calls that execute it."""
