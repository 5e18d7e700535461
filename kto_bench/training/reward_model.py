"""A reward model: the start's decoder with a scalar head on the last token, trained on pairs (Bradley and Terry)."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from kto_bench.component import ConfigError
from kto_bench.feedback.batches import schedule, units_of
from kto_bench.feedback.splits import split_by_prompt
from kto_bench.feedback.tokenised import TokenisedFeedback
from kto_bench.feedback.tokenising import tokenise
from kto_bench.feedback.tokens import Encoder
from kto_bench.feedback.types import Feedback, Messages
from kto_bench.models import load_tokenizer, pad_id_of, stored_weights
from kto_bench.training.config import TrainConfig
from kto_bench.training.device import pick_device
from kto_bench.training.loop import TrainingDivergedError
from kto_bench.training.microbatches import cut
from kto_bench.training.optimiser import build_optimiser

if TYPE_CHECKING:
    from kto_bench.feedback.annotators.reward_model import RewardTraining

FACTS = "reward_model.json"
Ids = list[int]


def train_reward_model(
    folder: Path,
    start: Path,
    feedback: Feedback,
    settings: RewardTraining,
    seed: int,
    progress: Callable[[int, int], None],
) -> None:
    """Train on the pairs of ``feedback`` and leave in ``folder`` the model, its tokenizer and what is known of it.

    ``seed`` is that of the new head and of the order. FACTS: the accuracy and the mean loss of the last tenth of the
    steps, the accuracy on the prompts that were kept apart, and the rewards' mean and fifths over the completions that
    it was trained on. Raises ConfigError for a model that transformers cannot give a scalar head.
    """
    tokenizer = load_tokenizer(start)
    encoder = Encoder(tokenizer, settings.max_prompt_tokens, settings.max_completion_tokens)
    train, kept_apart = split_by_prompt(feedback, settings.validation_fraction, seed)
    data = tokenise(train, encoder)
    model = _with_scalar_head(start, pad_id_of(tokenizer), seed).to(pick_device())
    steps = schedule(
        units_of(data, "paired"),
        data.prompt_of,
        completions_per_step=2 * settings.pairs_per_step,
        epochs=settings.epochs,
        steps=max(1, int(len(train) * settings.epochs) // settings.pairs_per_step),
        seed=seed,
        mismatched=False,
    )
    optimiser, scheduler = build_optimiser(
        model,
        TrainConfig(
            learning_rate=settings.learning_rate,
            warmup_fraction=settings.warmup_fraction,
            weight_decay=settings.weight_decay,
            schedule="cosine",
        ),
        len(steps),
    )
    losses, right = [], []
    for number, step in enumerate(steps, start=1):
        pairs = step.units
        loss_sum, margins = 0.0, []
        tokens = data.lengths[pairs].sum(axis=1)
        for (rows,) in cut(tokens, max_tokens=settings.max_tokens_per_microbatch, max_items=None, processes=1):
            rewards = _rewards(model, _sequences(data, pairs[rows].ravel())).view(-1, 2)
            margin = rewards[:, 0] - rewards[:, 1]
            loss = -torch.nn.functional.logsigmoid(margin).sum() / len(pairs)
            loss.backward()
            loss_sum += loss.item()
            margins.append(margin.detach())
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        if not (np.isfinite(loss_sum) and torch.isfinite(norm)):
            raise TrainingDivergedError(
                f"reward model, step {number}: loss {loss_sum}; lower feedback.annotator.train.learning_rate"
            )
        optimiser.step()
        scheduler.step()
        optimiser.zero_grad(set_to_none=True)
        losses.append(loss_sum)
        right.append((torch.cat(margins) > 0).double().mean().item())
        progress(number, len(steps))
    model.eval()
    tail = max(1, len(steps) // 10)
    seen = _score(model, [*_sequences(data, np.arange(len(data.completions)))], settings.max_tokens_per_microbatch)
    facts = {
        "pairs": len(train),
        "steps": len(steps),
        "last_loss": float(np.mean(losses[-tail:])),
        "last_accuracy": float(np.mean(right[-tail:])),
        "validation_pairs": len(kept_apart),
        "validation_accuracy": _accuracy(model, kept_apart, encoder, settings.max_tokens_per_microbatch),
        "mean": float(seen.mean()),
        "fifths": [float(value) for value in np.quantile(seen, [0.2, 0.4, 0.6, 0.8])],
    }
    model.cpu().save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
    (folder / FACTS).write_text(json.dumps(facts, indent=2), encoding="utf-8")


@dataclass(frozen=True)
class RewardModel:
    """A trained reward model."""

    model: Any
    encoder: Encoder
    mean: float
    """Of the rewards of the completions that it was trained on."""
    fifths: Sequence[float]
    """The four rewards between the fifths of these."""
    max_tokens: int

    @classmethod
    def load(cls, folder: Path, settings: RewardTraining) -> RewardModel:
        """What ``train_reward_model`` left, on the device."""
        from transformers import AutoModelForSequenceClassification

        model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
        encoder = Encoder(load_tokenizer(folder), settings.max_prompt_tokens, settings.max_completion_tokens)
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        model = model.eval().to(pick_device())
        return cls(model, encoder, facts["mean"], facts["fifths"], settings.max_tokens_per_microbatch)

    def rewards(self, texts: Sequence[tuple[Messages, str]]) -> list[float]:
        """The reward of each (prompt, completion)."""
        if not texts:
            return []
        prompts = self.encoder.prompts([prompt for prompt, _ in texts]).ids
        completions = self.encoder.completions([text for _, text in texts]).ids
        sequences = [[*map(int, prompts[i]), *map(int, completions[i])] for i in range(len(texts))]
        found: list[float] = _score(self.model, sequences, self.max_tokens).tolist()
        return found


def _with_scalar_head(start: Path, pad_id: int, seed: int) -> Any:
    from transformers import AutoConfig, AutoModelForSequenceClassification

    path, revision, _ = stored_weights(start)
    config = AutoConfig.from_pretrained(path, revision=revision)
    config.num_labels, config.pad_token_id = 1, pad_id
    torch.manual_seed(seed)  # of the new head
    try:
        model = AutoModelForSequenceClassification.from_pretrained(
            path, revision=revision, config=config, dtype=torch.float32, use_safetensors=True
        )
    except ValueError as error:
        raise ConfigError(
            f"feedback.annotator: transformers has no {config.model_type} model with a scalar head ({error}); choose "
            "another annotator"
        ) from error
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model.train()


def _sequences(data: TokenisedFeedback, indices: np.ndarray) -> list[Ids]:
    """Prompt and completion of each of ``indices``, end token included."""
    return [[*map(int, data.prompts[data.prompt_of[i]]), *map(int, data.completions[i])] for i in indices]


def _rewards(model: Any, sequences: Sequence[Ids]) -> Tensor:
    """(n,) rewards: the head on the last token, which is the end token unless the completion was cut."""
    device, width = next(model.parameters()).device, max(map(len, sequences))
    positions = _positions_of(model)
    if positions is not None and width > positions:
        raise ConfigError(
            f"feedback.annotator.train.max_prompt_tokens, max_completion_tokens: they let through {width} tokens, and "
            f"the model has {positions} positions; lower them"
        )
    pad = model.config.pad_token_id
    # Padded on the left, so that the last place is the last token of all, also where the end token serves as padding.
    ids = torch.tensor([[pad] * (width - len(one)) + one for one in sequences], device=device)
    mask = torch.tensor([[0] * (width - len(one)) + [1] * len(one) for one in sequences], device=device)
    places = (mask.cumsum(-1) - 1).clamp(min=0)
    hidden = model.base_model(input_ids=ids, attention_mask=mask, position_ids=places, use_cache=False)[0]
    rewards: Tensor = model.score(hidden[:, -1]).squeeze(-1).float()
    return rewards


@torch.no_grad()
def _score(model: Any, sequences: Sequence[Ids], max_tokens: int) -> np.ndarray:
    """(n,) rewards."""
    rewards = np.zeros(len(sequences))
    lengths = np.array([len(one) for one in sequences])
    for (rows,) in cut(lengths, max_tokens=max_tokens, max_items=None, processes=1):
        rewards[rows] = _rewards(model, [sequences[row] for row in rows]).double().cpu().numpy()
    return rewards


def _accuracy(model: Any, feedback: Feedback, encoder: Encoder, max_tokens: int) -> float | None:
    """How often the chosen completion has the larger reward; None without pairs."""
    if not feedback.rows:
        return None
    data = tokenise(feedback, encoder)
    rewards = _score(model, _sequences(data, np.arange(len(data.completions))), max_tokens).reshape(-1, 2)
    return float((rewards[:, 0] > rewards[:, 1]).mean())


def _positions_of(model: Any) -> int | None:
    """How many positions it has; None where its configuration does not say."""
    return getattr(model.config, "max_position_embeddings", None)
