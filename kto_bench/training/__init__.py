"""Training: log-probabilities, the loop, the optimiser and its schedule."""
