"""Seeds by axis: one number of the user's, and a stream of its own for everything that is random.

Streams are derived by hashing names, so two losses at the same seed see the same data order, and adding a cell, a value
of an axis or a stream to a sweep changes no other. Nothing else in a run is random.

| axis                         | streams, and what they decide                                                   |
| ---------------------------- | ------------------------------------------------------------------------------- |
| ``seeds.initialisation``     | "initialisation": the weights of a base model made here; "corpus": what it is   |
|                              | pretrained on; "adapter", "value head" and "control tokens": new weights;       |
|                              | "annotator": the head of a reward model, and the order of its training          |
| ``seeds.data_order``         | "data order", by epoch: which examples a step sees, and KTO's mismatched pairs; |
|                              | of feedback on policy, which prompts are asked when                             |
| ``seeds.sampling``           | "generate", by prompt: the completions that are sampled; "benchmark"; of        |
|                              | feedback on policy "sample", by place in the stream of prompts, and "annotate", |
|                              | by round: the annotator's luck, of which "order" is which completion a judge    |
|                              | that annotates sees first                                                       |
| ``feedback.keep_seed``       | "subsample": which part of the feedback is kept, where not all of it is         |
|                              | "label noise": which labels are turned round, where any are                     |
| ``feedback.seed`` (mixture)  | "mixture": which rows of a part are left out, where not all are taken           |
| ``feedback.seed`` (shp)      | "shp": which pairs of a post are kept, where it has many                        |
| ``feedback.seed`` (sandbox)  | "completions": the prompts and what is compared; "demonstrations"; "labels", by |
|                              | kind of feedback: the annotator's luck, so another annotator judges the same;   |
|                              | what is held out for evaluation has streams of its own of both                 |
| ``evaluation.prompts.seed``  | (sandbox) "evaluation prompts"                                                  |
| ``evaluation.judge.seed``    | (local model) "judge", by question: what it says at a temperature above 0       |
| fixed                        | "alpaca eval", "mt bench", "arena hard": the resamples behind an interval       |
|                              | "implied reward": which rows are asked for the reward that a policy implies     |
|                              | "agreement": the comparisons by which annotators of the sandbox are calibrated  |
| ``tune.seed``                | "tuning", by loss, parameter and trial: the settings that are tried             |

An axis under ``seeds`` is ``seed`` unless it is given a number of its own. Which prompts are held out, and which of
them are for validation, is fixed by the prompts alone; a judge sees the two completions in an order that alpaca_eval
draws by prompt. Neither depends on any seed, so that all runs are asked and judged alike.
"""

from __future__ import annotations

import hashlib


def derive(seed: int, *names: str | int) -> int:
    """A seed in [0, 2**31) for the stream called ``names`` (for example ``derive(3, "data order", epoch)``)."""
    text = "\x1f".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") & 0x7FFFFFFF
