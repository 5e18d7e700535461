"""Control tokens: prompts that say which kind of completion follows (conditional training)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from tokenizers import AddedToken

from kto_bench.component import ConfigError
from kto_bench.feedback.batches import desirable_of
from kto_bench.feedback.tokens import TokenisedFeedback

Controls = tuple[str, str]
"""The tokens after which desirable and undesirable completions stand."""


def add_to_tokenizer(tokenizer: Any, controls: Controls) -> None:
    """Add both tokens, and end every generation prompt of the chat template with the first: in place.

    Whoever loads the trained checkpoint and applies its template so asks for desirable completions.
    """
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in controls], special_tokens=True)
    tokenizer.chat_template += f"{{% if add_generation_prompt %}}{{{{ {controls[0]!r} }}}}{{% endif %}}"


@torch.no_grad()
def add_to_model(model: Any, tokenizer: Any, controls: Controls) -> None:
    """Give both tokens a row in the embeddings and in the output head of ``model``: in place.

    A row is the mean of those of the other tokens, so a new token is as likely an output as the average one rather than
    more likely than all that the model has learnt to avoid.
    """
    ids = tokenizer.convert_tokens_to_ids(list(controls))
    if max(ids) >= model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(max(ids) + 1, mean_resizing=False)
    for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
        others = torch.ones(len(layer.weight), dtype=torch.bool)
        others[ids] = False
        layer.weight[ids] = layer.weight[others].mean(0)


def conditioned(data: TokenisedFeedback, tokenizer: Any, controls: Controls) -> TokenisedFeedback:
    """``data`` with the token of its completion's class at the end of every prompt.

    The prompts of ``data`` are generation prompts of ``add_to_tokenizer``'s template: they end with the first token
    already, so what a policy is trained after and what it is asked to continue are the same ids.
    """
    good, bad = tokenizer.convert_tokens_to_ids(list(controls))
    if any(prompt[-1] != good for prompt in data.prompts):
        raise ConfigError(
            f"model.chat_template: its generation prompt cannot end with the loss's control token {controls[0]!r}; "
            "choose turns, or a template that reads add_generation_prompt"
        )
    undesirable = [[*prompt[:-1], bad] for prompt in data.prompts]
    shift = np.where(desirable_of(data), 0, len(data.prompts))
    return replace(data, prompts=data.prompts + undesirable, prompt_of=data.prompt_of + shift)
