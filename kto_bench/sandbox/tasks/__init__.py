"""Benchmarks about the sandbox as lm-eval tasks; this folder is an ``include_path`` of lm-eval's ``TaskManager``."""
