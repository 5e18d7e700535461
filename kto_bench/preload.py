"""Everything that a cell may need, imported: for the server that cells are forked from (``kto_bench.cell``) only.

Nothing here may start threads, which a fork loses, or look for GPUs, which no fork could use then. The one thread there
is belongs to the allocator of pyarrow (jemalloc), which knows about forks.
"""

from __future__ import annotations

import kto_bench.__main__
import kto_bench.evaluation.generation.generate
import kto_bench.run
import kto_bench.training.loop  # torch, transformers, accelerate, peft
from kto_bench.evaluation.quiet import quiet

with quiet():
    import alpaca_eval.annotators

    import kto_bench.evaluation.benchmarks.benchmark_run  # lm-eval, datasets

__all__ = ["alpaca_eval", "kto_bench"]
