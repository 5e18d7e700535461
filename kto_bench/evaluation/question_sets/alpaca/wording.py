"""AlpacaEval's annotators: their prompts and parsers, read from the installed alpaca_eval."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Mapping
from typing import Any

from pydantic import Field, model_validator

from kto_bench.evaluation.judges.answers import Answer
from kto_bench.evaluation.judges.wording import Wording
from kto_bench.evaluation.question_sets.alpaca.published import package_folder
from kto_bench.evaluation.quiet import quiet

PAIRWISE_PARSERS = ("ranking_parser", "regex_parser", "logprob_parser", "lmsys_parser", "pipeline_meta_parser")


class AlpacaEvalWording(Wording):
    """The prompt and the parser of one of alpaca_eval's annotators (``evaluators_configs/NAME/configs.yaml``).

    How the model is asked (its name, temperature, log-probabilities) belongs to the judge: ``conf/judge`` has the two
    annotators that the leaderboards are made with.
    """

    annotator: str = Field(description="a folder of alpaca_eval's evaluators_configs")
    prompt_template: str = Field("", description="comes with the annotator, and cannot be given")

    @model_validator(mode="before")
    @classmethod
    def _template_of_annotator(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or not isinstance(values.get("annotator"), str):
            return values
        if values.get("prompt_template"):
            raise ValueError("prompt_template comes with the annotator; leave it away, or choose another wording")
        settings = settings_of(values["annotator"])
        template = package_folder() / "evaluators_configs" / settings["prompt_template"]
        return {**values, "prompt_template": template.read_text(encoding="utf-8")}

    def preference(self, answer: Answer) -> float | None:
        """What alpaca_eval's parser makes of the answer; None where it finds no preference."""
        settings = settings_of(self.annotator)
        completion = _as_choice(answer) if settings.get("completion_key") == "completions_all" else answer.text
        with quiet():
            from alpaca_eval import completion_parsers

            parser = getattr(completion_parsers, settings["fn_completion_parser"])
            try:
                found = parser(completion, **copy.deepcopy(settings.get("completion_parser_kwargs", {})))
            except Exception:  # parsers raise whatever a text that they do not expect makes them raise
                return None
        if len(found) != 1 or isinstance(found[0], bool) or not isinstance(found[0], int | float):
            return None
        preference = 1.5 if found[0] == 0 else float(found[0])  # alpaca_eval's 0 is a tie
        return preference if math.isfinite(preference) and 1 <= preference <= 2 else None

    def order_key(self, prompt_id: str, instruction: str) -> str:
        """The instruction alone, as in alpaca_eval: a judge then sees the orders behind the leaderboards."""
        return instruction


@functools.cache
def settings_of(annotator: str) -> dict[str, Any]:
    """An annotator's configuration. Raises ValueError where there is none, or where it is no pairwise one."""
    import yaml

    folder = package_folder() / "evaluators_configs"
    file = folder / annotator / "configs.yaml"
    if not file.is_file():
        known = ", ".join(sorted(path.parent.name for path in folder.glob("*/configs.yaml")))
        raise ValueError(f"annotator: alpaca_eval has none called {annotator!r}; it has {known}")
    settings = yaml.safe_load(file.read_text(encoding="utf-8"))
    if len(settings) != 1:
        raise ValueError(f"annotator: {annotator!r} is a pool of {len(settings)} annotators; choose a single one")
    (only,) = settings.values()
    if only.get("fn_completion_parser") not in PAIRWISE_PARSERS or only.get("batch_size", 1) != 1:
        raise ValueError(f"annotator: {annotator!r} cannot be used: it asks for several comparisons at once")
    return dict(only)


def _as_choice(answer: Answer) -> dict[str, Any]:
    """The answer as a choice of OpenAI's chat completions, as far as ``logprob_parser`` reads it."""
    content = [
        {"top_logprobs": [{"token": token, "logprob": logprob} for token, logprob in position.items()]}
        for position in answer.top_logprobs or ()
    ]
    return {"message": {"content": answer.text}, "text": answer.text, "logprobs": {"content": content}}
