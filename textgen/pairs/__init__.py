"""Conditional writing: from pairs of a prompt and its completion, a model that completes prompts."""
