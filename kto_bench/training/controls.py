"""Control tokens: prompts that say which kind of completion follows (conditional training)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from tokenizers import AddedToken

from kto_bench.component import ConfigError
from kto_bench.feedback.batches import desirable_of
from kto_bench.feedback.token_lists import as_lists
from kto_bench.feedback.tokenised import TokenisedFeedback

Controls = tuple[str, str]
"""The tokens after which desirable and undesirable completions stand."""


def add_to_tokenizer(tokenizer: Any, controls: Controls) -> None:
    """Add both tokens, and end every generation prompt of the chat template with the first: in place.

    Whoever loads the trained checkpoint and applies its template so asks for desirable completions. A checkpoint that
    was trained so already stays as it is. Raises ConfigError for a token that has another meaning to the tokenizer.
    """
    ending = f"{{% if add_generation_prompt %}}{{{{ {controls[0]!r} }}}}{{% endif %}}"
    if str(tokenizer.chat_template).endswith(ending):
        return
    if not isinstance(tokenizer.chat_template, str):
        raise ConfigError(
            "model.chat_template: the tokenizer has several templates, and control tokens end one; choose turns, plain "
            "or a file"
        )
    known = [token for token in controls if token in tokenizer.get_vocab()]
    if known:
        raise ConfigError(
            f"loss: the control token {known[0]!r} is in the tokenizer's vocabulary, where it means something else; "
            "choose another one, such as '<|good|>'"
        )
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in controls], special_tokens=True)
    tokenizer.chat_template += ending


@torch.no_grad()
def add_to_model(model: Any, tokenizer: Any, controls: Controls, seed: int) -> None:
    """Give both tokens, where they are new, a row in the embeddings and in the output head of ``model``: in place.

    As an input, each is drawn from ``seed`` as if it were one more of the tokens that are there (a normal distribution
    with their mean and standard deviation in each dimension), so the two differ from the beginning. As an output,
    each is the mean of the others: as likely as the average token rather than more likely than all that the model has
    learnt to avoid. Where inputs and outputs are the same weights, they are drawn.
    """
    ids = tokenizer.convert_tokens_to_ids(list(controls))
    if ids[0] in _trained(model):
        return
    if max(ids) >= model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(max(ids) + 1, mean_resizing=False)
    given, head = model.get_input_embeddings().weight, model.get_output_embeddings()
    others = torch.ones(len(given), dtype=torch.bool)
    others[ids] = False
    if head.weight is not given:
        head.weight[ids] = head.weight[others].mean(0)
    if getattr(head, "bias", None) is not None:
        head.bias[ids] = head.bias[others].mean(0)
    noise = torch.randn(len(ids), given.shape[1], generator=torch.Generator().manual_seed(seed))
    given[ids] = given[others].mean(0) + given[others].std(0) * noise.to(given)
    model.config.control_token_ids = ids


def _trained(model: Any) -> list[int]:
    """The ids of control tokens that a checkpoint has been trained with."""
    return getattr(model.config, "control_token_ids", [])


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
    desirable = as_lists(data.prompts)
    undesirable = desirable.first(desirable.lengths - 1).extended((), (bad,))
    shift = np.where(desirable_of(data), 0, len(data.prompts))
    return replace(data, prompts=desirable.joined(undesirable), prompt_of=data.prompt_of + shift)
