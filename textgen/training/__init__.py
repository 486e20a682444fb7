"""From tokens to a trained model: plan, loop, run folders."""
