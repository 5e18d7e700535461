"""Text for pretraining a model from scratch."""
