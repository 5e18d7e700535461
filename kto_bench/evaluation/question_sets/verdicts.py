"""Arena-Hard's five verdicts: how a model is asked for one, how it is read, what it counts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from kto_bench.component import ConfigError
from kto_bench.evaluation.judges.answers import Answer
from kto_bench.evaluation.judges.wording import Wording

VERDICTS = {"A>>B": (1.0, 3), "A>B": (1.0, 1), "A=B": (1.5, 1), "B>A": (2.0, 1), "B>>A": (2.0, 3)}
"""Preference (1: the first answer, 2: the second) and weight of each verdict."""
_SAME = {"A<<B": "B>>A", "A<B": "B>A", "B=A": "A=B", "B<A": "A>B", "B<<A": "A>>B"}
_VERDICT = re.compile(r"\[\[([AB<>=]+)\]\]")
TEMPLATE = """\
<|im_start|>system
You compare two answers, A and B, to a prompt of a user, and judge nothing but their quality.

First write down how you would answer the prompt yourself. Then hold both answers against yours: name what is wrong or
missing in each of them, and what does not belong there. A good answer is correct, does what was asked, and is no
longer than that takes; where the prompt is ambiguous, asking back is better than guessing. Neither the order of the
answers nor their length counts.

End with one of these verdicts, and write no other in double brackets:
[[A>>B]] A is much better
[[A>B]] A is a little better
[[A=B]] they are about as good
[[B>A]] B is a little better
[[B>>A]] B is much better
<|im_end|>
<|im_start|>user
Prompt:
{instruction}

Answer A:
{output_1}

End of answer A. Answer B:
{output_2}

End of answer B.
<|im_end|>"""


class ArenaHardWording(Wording):
    """Five verdicts, in words of ours, or in Arena-Hard's where ``path`` names its ``judge_config.yaml``."""

    prompt_template: str = TEMPLATE
    path: Path | None = Field(None, description="config/judge_config.yaml of lmarena/arena-hard-auto, v0.1")

    @model_validator(mode="before")
    @classmethod
    def _template_of_file(cls, values: Any) -> Any:
        path = values.get("path") if isinstance(values, Mapping) else None
        return values if path is None else {**values, "prompt_template": _template_of(Path(path))}

    def preference(self, answer: Answer) -> float | None:
        """1 or 2 for the better answer, 1.5 for a tie; None where there is no verdict, or more than one."""
        verdict = verdict_of(answer.text)
        return None if verdict is None else VERDICTS[verdict][0]

    def identity(self) -> dict[str, Any]:
        """The template itself, wherever it is from."""
        return {key: value for key, value in super().identity().items() if key != "path"}


def verdict_of(text: str) -> str | None:
    """The one verdict in an answer, as a key of ``VERDICTS``; None where there is none, or several that differ."""
    found = {_SAME.get(verdict, verdict) for verdict in _VERDICT.findall(text)}
    return found.pop() if len(found) == 1 and found <= set(VERDICTS) else None


def _template_of(path: Path) -> str:
    import yaml

    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
        system, template = settings["system_prompt"], settings["prompt_template"]
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise ConfigError(
            f"evaluation.judge.wording.path: {path} is no judge_config.yaml of Arena-Hard v0.1, with system_prompt and "
            f"prompt_template ({type(error).__name__}: {error})"
        ) from error
    (user,) = [template] if isinstance(template, str) else template
    ours = {"question_1": "instruction", "answer_1": "output_1", "answer_2": "output_2"}
    for theirs, name in ours.items():
        user = user.replace(f"{{{theirs}}}", f"{{{name}}}")
    return f"<|im_start|>system\n{system}\n<|im_end|>\n<|im_start|>user\n{user}\n<|im_end|>"
