"""How much the answers of an annotator say about gold utility, and the temperature at which two say equally much.

    python -m kto_bench.sandbox.agreement                                    every simulated annotator of conf/annotator
    python -m kto_bench.sandbox.agreement length_biased --set length_bias=2  one, with other fields
    python -m kto_bench.sandbox.agreement median_human --at 0.75             the temperature that agrees so often
    python -m kto_bench.sandbox.agreement median_human --at 0.75 --by thumbs the same, of thumbs

*Agreement* of choices is the share of pairs of unequal gold utility in which the better one is chosen; of thumbs, the
probability that a completion with a thumb up is better than one with a thumb down. Two annotators whose answers agree
with gold utility equally often are called equally informative: what a loss makes of them then differs by the kind of
their errors and not by their number. It is measured on ``PAIRS`` comparisons that no feedback is made of, with the same
luck for every annotator.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from hydra import compose, initialize_config_dir
from numpy.typing import NDArray
from omegaconf import OmegaConf
from scipy.stats import rankdata

from kto_bench.component import ConfigError, build
from kto_bench.feedback.annotator import Annotator, Candidates
from kto_bench.sandbox.annotators import ContradictingCrowds, SimulatedAnnotator
from kto_bench.sandbox.feedback import comparisons
from kto_bench.sandbox.perception import Seen
from kto_bench.seeds import derive

PAIRS = 10_000
"""The standard error of an agreement of 0.75 is 0.5 points, that of a difference of two annotators less."""
Answers = Literal["choices", "thumbs"]
CONF = Path(__file__).resolve().parents[2] / "conf"


@dataclass(frozen=True)
class Agreement:
    """Of one annotator with gold utility."""

    choices: float
    """Share of pairs of unequal utility in which the better one is chosen."""
    thumbs: float
    """Probability that a completion with a thumb up has a higher utility than one with a thumb down (ties: half)."""
    thumbs_up: float
    """Share of thumbs up."""


def agreement(annotator: Annotator) -> Agreement:
    """Measured on the comparisons described above; the same annotator gets the same answer."""
    up = _up(annotator)
    return Agreement(_choices(annotator), _better(up), float(up.mean()))


def temperature_at(annotator: Annotator, share: float, answers: Answers = "choices") -> float:
    """The temperature at which ``answers`` of ``annotator`` agree with gold utility in ``share`` of the cases.

    Raises ConfigError where no temperature does, because its biases alone are wrong more often than that.
    """

    def reached(temperature: float) -> float:
        return _MEASURES[answers](with_temperature(annotator, temperature))

    low, high = 1e-3, 100.0
    best = reached(low)
    if not 0.5 < share <= best:
        raise ConfigError(
            f"annotator {annotator.name!r}: its {answers} agree with gold utility in at most {best:.3f} of the cases, "
            f"at temperature {low}; {share} is not between 0.5 and that: weaken its biases or its noise"
        )
    for _ in range(30):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if reached(middle) >= share else (low, middle)
    return low


def with_temperature(annotator: Annotator, temperature: float) -> Annotator:
    """The same annotator, or both crowds, at another temperature."""
    if isinstance(annotator, SimulatedAnnotator):
        return annotator.model_copy(update={"temperature": temperature})
    if isinstance(annotator, ContradictingCrowds):
        crowds = {"majority": annotator.majority, "minority": annotator.minority}
        return annotator.model_copy(update={name: with_temperature(one, temperature) for name, one in crowds.items()})
    raise ConfigError(f"annotator {annotator.name!r}: a {type(annotator).__name__} has no temperature")


def preset(name: str, overrides: Sequence[str] = ()) -> Annotator:
    """The annotator of ``conf/annotator/NAME.yaml``, with ``FIELD=VALUE`` overrides."""
    if name not in presets():
        raise ConfigError(f"annotator: there is no preset {name!r}; allowed: {', '.join(presets())}")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        node = compose(f"annotator/{name}", [f"annotator.{one}" for one in overrides]).annotator
    return build(OmegaConf.to_container(node, resolve=True), Annotator, "annotator")


def presets() -> list[str]:
    """The names of the presets that this package makes; others (a judge, a reward model) read any text."""
    files: dict[str, Any] = {path.stem: OmegaConf.load(path) for path in sorted((CONF / "annotator").glob("*.yaml"))}

    def ours(name: str) -> bool:
        node = files[name]
        target = node.get("_target_")
        # A preset that states no class is another one with other settings, the first of its defaults.
        return target.startswith(__package__) if target else ours(node.defaults[0])

    return [name for name in files if ours(name)]


def _choices(annotator: Annotator) -> float:
    shown, seen = _measured()
    first, second = seen.utility.reshape(-1, 2).T
    unequal = np.abs(first - second) > 1e-9
    chosen = np.array(annotator.choose(shown, _luck("choices")))
    return float(np.mean((chosen == (first > second))[unequal]))


def _thumbs(annotator: Annotator) -> float:
    return _better(_up(annotator))


def _better(up: NDArray[np.bool_]) -> float:
    ranks = rankdata(np.round(_measured()[1].utility, 9))
    n_up, n_down = int(up.sum()), int((~up).sum())
    return float((ranks[up].sum() - n_up * (n_up + 1) / 2) / (n_up * n_down)) if n_up and n_down else float("nan")


def _up(annotator: Annotator) -> NDArray[np.bool_]:
    shown, _ = _measured()
    return np.array([thumb for own in annotator.approve(shown, _luck("thumbs")) for thumb in own], dtype=bool)


_MEASURES: dict[Answers, Callable[[Annotator], float]] = {"choices": _choices, "thumbs": _thumbs}


@lru_cache(maxsize=1)
def _measured() -> tuple[list[Candidates], Seen]:
    shown = comparisons(derive(0, "sandbox", "agreement"), PAIRS, held_out=False)
    return shown, Seen.shown(shown)


def _luck(answers: str) -> random.Random:
    return random.Random(derive(0, "sandbox", "agreement", answers))


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m kto_bench.sandbox.agreement", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("names", nargs="*", metavar="NAME", help="presets; none: all of them")
    parser.add_argument("--set", nargs="+", default=[], metavar="FIELD=VALUE", help="other fields, for each of them")
    parser.add_argument("--at", type=float, metavar="SHARE", help="find the temperature at which they agree so often")
    parser.add_argument(
        "--by", choices=get_args(Answers), default="choices", help="whose agreement --at means (default: %(default)s)"
    )
    chosen: Any = parser.parse_args(arguments)
    try:
        print(f"{'annotator':<20} {'temperature':>11} {'choices':>8} {'thumbs':>7} {'thumbs up':>9}")
        for name in chosen.names or presets():
            annotator = preset(name, chosen.set)
            if chosen.at is not None:
                annotator = with_temperature(annotator, temperature_at(annotator, chosen.at, chosen.by))
            found = agreement(annotator)
            shown = f"{_temperature(annotator):>11} {found.choices:>8.3f} {found.thumbs:>7.3f} {found.thumbs_up:>9.3f}"
            print(f"{name:<20} {shown}")
    except ConfigError as error:
        parser.error(str(error))


def _temperature(annotator: Annotator) -> str:
    one = annotator.majority if isinstance(annotator, ContradictingCrowds) else annotator
    return f"{one.temperature:.3f}" if isinstance(one, SimulatedAnnotator) else "-"


if __name__ == "__main__":
    main()
