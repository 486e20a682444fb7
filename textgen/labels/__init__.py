"""Labels for texts: what is read, how a model learns it, how well it does, and how it is used."""
