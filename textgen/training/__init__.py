"""Planning, running and resuming training."""
