"""Everything measured about each loss: what figures, tables and sentences are made of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

from analysis.halo.catalogue import Subject
from analysis.halo.probe import DISLIKED, Probe
from analysis.halo.shape import Shape, describe
from analysis.halo.value import Curve, curve, value_functions
from analysis.halo.verdict import Verdict, verdict
from analysis.page import Progress
from kto_bench.component import ConfigError


@dataclass(frozen=True)
class Study:
    """One loss: a curve and its shape for each class of completions, and the verdict."""

    subject: Subject
    curves: dict[str, Curve]
    shapes: dict[str, Shape]

    @cached_property
    def verdict(self) -> Verdict:
        """Whether it is a human-aware loss; found when first asked for, since figures do without.

        Raises ConfigError as ``studies`` does.
        """
        with _named(self.subject):
            return verdict(self.subject.loss)

    @property
    def liked(self) -> str:
        """The class that people liked: chosen, desirable or demonstrations."""
        return next(role for role in self.curves if role not in DISLIKED)

    @property
    def disliked(self) -> str | None:
        """The class that people disliked; None for demonstrations."""
        return next((role for role in self.curves if role in DISLIKED), None)

    @property
    def yardstick(self) -> float:
        """The slope at the reference point of what people liked, else of what they did not, else the steepest."""
        slopes = [
            abs(slope)
            for role in (self.liked, self.disliked)
            if role is not None
            for slope in (self.shapes[role].slope_gain, self.shapes[role].slope_loss)
        ]
        steepest = max(shape.steepest for shape in self.shapes.values())
        return next((slope for slope in slopes if slope > 0), steepest or 1.0)


def studies(subjects: Sequence[Subject], progress: Progress) -> list[Study]:
    """Measure all ``subjects``. Raises ConfigError naming the YAML of a loss that cannot be evaluated."""
    return [_study(subject, progress) for subject in subjects]


def _study(subject: Subject, progress: Progress) -> Study:
    progress(f"loss: {subject.name}")
    with _named(subject):
        functions = value_functions(Probe.of(subject.loss))
        return Study(
            subject,
            {function.role: curve(function) for function in functions},
            {function.role: describe(function) for function in functions},
        )


@contextmanager
def _named(subject: Subject) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # a user's loss may raise anything, and the user should learn which one did
        raise ConfigError(
            f"{subject.file}: {type(subject.loss).__name__} cannot be evaluated on made-up completions: "
            f"{type(error).__name__}: {error}"
        ) from error
