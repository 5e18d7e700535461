"""Alignment losses: one file each, pure functions of log-probabilities."""

from kto_bench.losses.base import Completions, FeedbackKind, Loss, Output, ReferencePoint

__all__ = ["Completions", "FeedbackKind", "Loss", "Output", "ReferencePoint"]
