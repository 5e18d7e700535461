"""Standard benchmarks through lm-eval."""
