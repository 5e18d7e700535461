"""The comparisons behind a head to head, through alpaca_eval's own annotator.

alpaca_eval draws the order in which a judge sees the two outputs, formats the prompts and undoes the order. It never
sees its own reference data, its leaderboards or its cache of annotations (which is global by default, and keyed by
nothing that identifies a checkpoint), so nothing touches the network. What it formats is for exchange only: the exact
texts are read back from it, and a model judge is asked in its own wording, through ``asking.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kto_bench.evaluation.errors import EvaluationError
from kto_bench.evaluation.judges.agreement import Verdict
from kto_bench.evaluation.judges.asking import ask
from kto_bench.evaluation.judges.cost import Account
from kto_bench.evaluation.judges.judge import Judge, quote
from kto_bench.evaluation.judges.model_judge import ModelJudge
from kto_bench.evaluation.quiet import quiet

CHUNK = 64
"""Prompts per call of ``Judge.complete``; between calls progress is reported."""
RAW = "preference_raw_completion"
"""alpaca_eval's column of what the judge said, here a number by which we find it."""
KEYS = ("prompt_id", "instruction", "order_key", "ask")
Progress = Callable[[int, int], None] | None
Say = Callable[[str], None] | None
Texts = tuple[str, str, str]
"""(instruction, output 1, output 2)."""


def instruction_of(messages: Sequence[dict[str, str]]) -> str:
    """What a judge reads as the instruction: the one user turn, or else all turns, each as ``role: content``."""
    if len(messages) == 1 and messages[0]["role"] == "user":
        return messages[0]["content"]
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in messages)


@dataclass
class _Comparison:
    """One comparison: ``ours`` is the place of our output before alpaca_eval draws an order."""

    prompt_id: str
    repeat: int
    ours: int


@dataclass(frozen=True)
class _Asked:
    """What the judge saw, what it said to that, and the preference (1 to 2) that it stated."""

    texts: Texts
    answer: str
    preference: float


class Comparisons:
    """Of each row's completion with its reference, in the orders and as often as ``judge`` asks for."""

    def __init__(self, rows: Sequence[dict[str, Any]], judge: Judge, seed: int) -> None:
        """``seed`` draws the orders, where they are drawn."""
        self._judge, self._seed = judge, seed
        self._table: list[dict[str, str]] = []
        self._comparisons: list[_Comparison] = []
        self._names: dict[Texts, str] = {}
        for row in rows:
            instruction = instruction_of(row["prompt"])
            for ours in (2, 1) if judge.orders == "both" else (2,):
                for repeat in range(judge.repeats):
                    self._add(row, instruction, ours, repeat)

    def _add(self, row: dict[str, Any], instruction: str, ours: int, repeat: int) -> None:
        outputs = (row["reference"], row["completion"]) if ours == 2 else (row["completion"], row["reference"])
        # The baseline comes first in alpaca_eval: a preference of 1 is for output_1 (reference), of 2 for output_2
        # (ours). Where it draws the order, it undoes that; where we ask in both, the second one is ours to undo.
        self._table.append(
            {
                "prompt_id": quote(row["prompt_id"]),
                "instruction": quote(instruction),
                "order_key": self._judge.order_key(row["prompt_id"], instruction),
                "ask": f"{ours}/{repeat}",
                "output_1": quote(outputs[0]),
                "output_2": quote(outputs[1]),
            }
        )
        self._comparisons.append(_Comparison(row["prompt_id"], repeat, ours))
        for shown in (outputs, outputs[::-1]):
            self._names.setdefault((instruction, *shown), row["prompt_id"])

    def annotated(self, folder: Path, progress: Progress, say: Say) -> tuple[list[Verdict], Account | None]:
        """The verdicts, in the order of the rows, and what they took of a model judge.

        Raises EvaluationError where any is missing.
        """
        account: Account | None = None
        asked: list[_Asked] = []
        with quiet() as loud:
            from alpaca_eval.annotators import PairwiseAnnotator

            def completions(prompts: Sequence[str]) -> dict[str, list[int]]:
                nonlocal asked, account
                asked, account = self._ask(list(prompts), folder, loud, progress, say)
                return {"completions": list(range(len(asked)))}

            annotator = PairwiseAnnotator(
                annotators_config=self._write_configuration(folder),
                seed=self._seed,
                input_keys=KEYS,  # two prompts may share an instruction
                random_seed_column=("order_key",),
                is_randomize_output_order=self._judge.orders == "random",
                fn_completions=completions,
                fn_completion_parser=lambda number: [asked[int(number)].preference],
                caching_path=None,
                is_avoid_reannotations=False,
            )
            annotated = {tuple(row[key] for key in KEYS): row for row in annotator(self._table, chunksize=None)}
        verdicts = []
        for table, one in zip(self._table, self._comparisons, strict=True):
            row = annotated[tuple(table[key] for key in KEYS)]
            preference = row["preference"] - 1.0 if one.ours == 2 else 2.0 - row["preference"]
            ours, answer = 0, ""
            if table["output_1"] != table["output_2"]:  # of identical outputs alpaca_eval makes a tie, unasked
                # Which of several that are alike in everything was asked when, only alpaca_eval knows.
                found = asked[int(row[RAW])]
                ours = one.ours if quote(found.texts[1]) == table["output_1"] else 3 - one.ours
                answer = found.answer
            verdicts.append(Verdict(one.prompt_id, ours, one.repeat, preference, answer))
        if account is None and isinstance(self._judge, ModelJudge):
            account = Account.of([], self._judge.price)  # all texts were identical
        return verdicts, account

    def _ask(
        self,
        prompts: list[str],
        folder: Path,
        loud: Callable[[], AbstractContextManager[None]],
        progress: Progress,
        say: Say,
    ) -> tuple[list[_Asked], Account | None]:
        """What the judge says of alpaca_eval's prompts."""
        judge, account = self._judge, None
        texts = [judge.read(prompt) for prompt in prompts]
        names = [self._names[one] for one in texts]
        if isinstance(judge, ModelJudge):
            requests = [judge.wording.request(*one) for one in texts]
            with loud():
                found = ask(judge, requests, judge.wording.preference, folder, progress, say, names)
            account = found.account
            values, failures = found.values, found.failures
            answers = ["" if answer is None else answer.text or " " for answer in found.answers]
        else:
            answers = []
            for start in range(0, len(prompts), CHUNK):
                with loud():
                    answers += _complete(judge, prompts[start : start + CHUNK])
                    if progress:
                        progress(len(answers), len(prompts))
            values = [judge.stated(answer) for answer in answers]
            failures = [
                f"{name}: answer {answer!r}" if value is None else None
                for name, answer, value in zip(names, answers, values, strict=True)
            ]
        self._check_complete([failure for failure in failures if failure is not None])
        stated = [float(value) for value in values if value is not None]
        return [_Asked(*one) for one in zip(texts, answers, stated, strict=True)], account

    def _check_complete(self, failed: list[str]) -> None:
        if failed:
            raise EvaluationError(
                f"judge {self._judge.name!r} left {len(failed)} of {len(self._comparisons)} comparisons without a "
                f"preference ({'; '.join(failed[:3])}); " + self._what_to_do()
            )

    def _what_to_do(self) -> str:
        if isinstance(self._judge, ModelJudge):
            return "the answers that came are kept, and a relaunch asks for the missing ones only"
        return f"an answer must match one of {self._judge.answers}"

    def _write_configuration(self, folder: Path) -> Path:
        """alpaca_eval takes an annotator's configuration as a path only; its template too, as it opens it as a file."""
        import yaml

        folder = folder.resolve() / "alpaca_eval"
        folder.mkdir(parents=True, exist_ok=True)
        template = folder / "prompt_template.txt"
        template.write_text(self._judge.exchange_template, encoding="utf-8", newline="")
        path = folder / "configs.yaml"
        configuration = {self._judge.name: {"prompt_template": str(template), "batch_size": 1}}
        path.write_text(yaml.safe_dump(configuration, sort_keys=False, allow_unicode=True), encoding="utf-8")
        return path


def _complete(judge: Judge, prompts: list[str]) -> list[str]:
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
