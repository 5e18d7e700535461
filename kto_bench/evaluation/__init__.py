"""Evaluation: generation, benchmarks through lm-eval, head to head through alpaca-eval, judges."""
