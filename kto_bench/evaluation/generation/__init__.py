"""Completions of evaluation prompts, and what is measured of them without a judge."""
