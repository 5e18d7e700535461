"""Feedback: sources, conversions, tokens and batches."""
