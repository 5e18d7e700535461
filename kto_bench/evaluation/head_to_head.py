"""Head to head: our completions against the reference completions, through alpaca_eval's own annotator.

alpaca_eval draws the order in which a judge sees the two outputs, formats the prompts, parses the answers and undoes
the order. It never sees its own reference data, its leaderboards or its cache of annotations (which is global by
default, and keyed by nothing that identifies a checkpoint), so nothing touches the network.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kto_bench.evaluation.errors import EvaluationError
from kto_bench.evaluation.judges import Judge, quote
from kto_bench.evaluation.quiet import quiet

CHUNK = 64
"""Prompts per call of ``Judge.complete``; between calls progress is reported."""


def judge(
    rows: Sequence[dict[str, Any]],
    judge: Judge,
    folder: Path,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Judge the rows of completions.jsonl: (rows of judgements.jsonl in the same order, summary).

    A row holds ``preference``, that of our completion over the reference: 1.0, 0.5 for a tie, 0.0; identical texts tie
    without asking the judge (alpaca_eval's rule). ``scores`` holds the judge's scores of our completion, and those of
    the reference under the prefix ``reference_``. The summary is {"judge", "n", "win_rate", "means"} with ties counted
    as a half.

    ``folder`` belongs to the caller; alpaca_eval's configuration and prompt template are left there. ``seed`` draws the
    order of the outputs, per prompt.

    Raises EvaluationError where rows lack an id or a reference or repeat an id, and where judging is incomplete: an
    answer that cannot be parsed, a missing answer, a judge that raises. There is no score then.
    """
    _check_rows(rows)
    instructions = [instruction_of(row["prompt"]) for row in rows]
    # The baseline comes first in alpaca_eval: a preference of 1 is for output_1 (reference), of 2 for output_2 (ours).
    comparisons = [
        {
            "prompt_id": quote(row["prompt_id"]),
            "instruction": quote(instruction),
            "output_1": quote(row["reference"]),
            "output_2": quote(row["completion"]),
        }
        for row, instruction in zip(rows, instructions, strict=True)
    ]
    annotated = _annotate(comparisons, judge, folder, seed, progress)
    _check_complete(rows, annotated, judge)
    judgements = [
        {
            "prompt_id": row["prompt_id"],
            "preference": annotated[quote(row["prompt_id"])]["preference"] - 1.0,
            "scores": _scores(judge, instruction, row),
        }
        for row, instruction in zip(rows, instructions, strict=True)
    ]
    return judgements, _summary(judgements, judge)


def instruction_of(messages: Sequence[dict[str, str]]) -> str:
    """What a judge reads as the instruction: the one user turn, or else all turns, each as ``role: content``."""
    if len(messages) == 1 and messages[0]["role"] == "user":
        return messages[0]["content"]
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in messages)


def _annotate(
    comparisons: list[dict[str, str]],
    judge: Judge,
    folder: Path,
    seed: int,
    progress: Callable[[int, int], None] | None,
) -> dict[str, dict[str, Any]]:
    """alpaca_eval's annotations by (quoted) prompt id."""
    with quiet() as loud:
        from alpaca_eval.annotators import PairwiseAnnotator

        def completions(prompts: Sequence[str]) -> dict[str, list[Any]]:
            answers: list[Any] = []
            for start in range(0, len(prompts), CHUNK):
                with loud():
                    answers += _ask(judge, list(prompts[start : start + CHUNK]))
                    if progress:
                        progress(len(answers), len(prompts))
            return {"completions": answers}

        annotator = PairwiseAnnotator(
            annotators_config=_write_configuration(judge, folder),
            seed=seed,
            input_keys=("prompt_id", "instruction"),  # two prompts may share an instruction
            random_seed_column=("prompt_id", "instruction"),
            fn_completions=completions,
            caching_path=None,
            is_avoid_reannotations=False,
        )
        annotated = annotator(comparisons, chunksize=None)
    return {row["prompt_id"]: row for row in annotated}


def _ask(judge: Judge, prompts: list[str]) -> list[str]:
    try:
        answers = judge.complete(prompts)
    except EvaluationError:
        raise
    except Exception as error:
        raise EvaluationError(
            f"judge {judge.name!r} failed on {len(prompts)} prompts: {type(error).__name__}: {error}"
        ) from error
    if len(answers) != len(prompts):
        raise EvaluationError(f"judge {judge.name!r} gave {len(answers)} answers to {len(prompts)} prompts")
    return answers


def _write_configuration(judge: Judge, folder: Path) -> Path:
    """alpaca_eval takes an annotator's configuration as a path only; its template too, as it opens it as a file."""
    import yaml

    folder = folder.resolve() / "alpaca_eval"
    folder.mkdir(parents=True, exist_ok=True)
    template = folder / "prompt_template.txt"
    template.write_text(judge.prompt_template, encoding="utf-8", newline="")
    configuration = {
        "prompt_template": str(template),
        "fn_completion_parser": "regex_parser",
        "completion_parser_kwargs": {"outputs_to_match": judge.answers},
        "batch_size": 1,
    }
    path = folder / "configs.yaml"
    path.write_text(yaml.safe_dump({judge.name: configuration}, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return path


def _check_rows(rows: Sequence[dict[str, Any]]) -> None:
    if not rows:
        raise EvaluationError("head to head: there are no completions to judge")
    missing = [row["prompt_id"] for row in rows if row.get("reference") is None]
    if missing:
        raise EvaluationError(
            f"head to head: {len(missing)} of {len(rows)} prompts have no reference completion, for example "
            f"{missing[:3]}"
        )
    repeated = [prompt_id for prompt_id, count in Counter(row["prompt_id"] for row in rows).items() if count > 1]
    if repeated:
        raise EvaluationError(
            f"head to head: {len(repeated)} prompt ids occur more than once, for example {repeated[:3]}"
        )


def _check_complete(rows: Sequence[dict[str, Any]], annotated: dict[str, dict[str, Any]], judge: Judge) -> None:
    failed = []
    for row in rows:
        annotation = annotated.get(quote(row["prompt_id"]), {})
        preference = annotation.get("preference")
        if preference is None or not 1 <= preference <= 2:  # also true for NaN
            failed.append((row["prompt_id"], annotation.get("preference_raw_completion")))
    if failed:
        examples = "; ".join(f"{prompt_id}: answer {answer!r}" for prompt_id, answer in failed[:3])
        raise EvaluationError(
            f"judge {judge.name!r} left {len(failed)} of {len(rows)} comparisons without a preference ({examples}); "
            f"an answer must match one of {judge.answers}"
        )


def _scores(judge: Judge, instruction: str, row: dict[str, Any]) -> dict[str, float]:
    ours = judge.scores(instruction, row["completion"])
    reference = judge.scores(instruction, row["reference"])
    return {**ours, **{f"reference_{name}": value for name, value in reference.items()}}


def _summary(judgements: list[dict[str, Any]], judge: Judge) -> dict[str, Any]:
    n = len(judgements)
    names = dict.fromkeys(name for row in judgements for name in row["scores"])
    values = {name: [row["scores"][name] for row in judgements if name in row["scores"]] for name in names}
    return {
        "judge": judge.name,
        "n": n,
        "win_rate": sum(row["preference"] for row in judgements) / n,
        "means": {name: sum(of) / len(of) for name, of in values.items()},
    }
