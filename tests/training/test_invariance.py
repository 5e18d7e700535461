"""The numbers do not depend on how the work was split: passes, layouts, recomputation, processes, interruptions."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from engine import SETTINGS, Job, Trajectory, assert_same, rows
from family import ONE_OF_EACH_KIND, TRAINED, loss_of
from filelock import FileLock
from tiny import tiny_model, tiny_tokenizer
from transformers import AutoModelForCausalLM

from kto_bench.models import load_policy
from kto_bench.preemption import Preempted
from kto_bench.training.config import TrainConfig
from kto_bench.training.loop import Safety
from kto_bench.training.policy import TrainablePolicy
from kto_bench.training.saves import Saves

SPLITS: dict[str, dict[str, Any]] = {
    "8 passes of 1": {"micro_batch_size": 1},
    "4 passes of 2": {"micro_batch_size": 2},
    "2 passes of 4": {"micro_batch_size": 4},
    "by tokens": {"max_tokens_per_microbatch": 37},
    "padded": {"padding_free": False},
    "padded, by tokens": {"padding_free": False, "max_tokens_per_microbatch": 50},
    "one position at a time": {"max_logits": 64},
    "five positions at a time": {"max_logits": 5 * 64},
    "gradient checkpointing": {"gradient_checkpointing": True},
    "all of it": {"gradient_checkpointing": True, "max_logits": 64, "micro_batch_size": 2, "padding_free": False},
}
PROCESSES: dict[str, dict[str, Any]] = {
    "two processes": {},
    "two processes, small passes": {"micro_batch_size": 2},
    "two processes, 3 pieces": {"max_tokens_per_microbatch": 60},
    "two processes, sharded": {"sharding": "full"},
    "two processes, sharded, small passes": {"sharding": "full", "micro_batch_size": 2, "gradient_checkpointing": True},
}

ALL_SPLITS = [(name, split) for name in TRAINED for split in SPLITS if name in ONE_OF_EACH_KIND or split == "all of it"]
ALL_PROCESSES = [
    (name, split)
    for name in TRAINED
    for split in PROCESSES
    if name in ONE_OF_EACH_KIND or split == "two processes, 3 pieces"
]
"""Everything for one loss of each kind; the hardest for all."""


class Jobs(dict[str, tuple[Job, Trajectory]]):
    """Made at the first look."""

    def __init__(self, folders: pytest.TempPathFactory) -> None:
        self._folders = folders

    def __missing__(self, name: str) -> tuple[Job, Trajectory]:
        job = Job(self._folders.mktemp(name), loss_of(name))
        self[name] = job, job.train("whole")
        return self[name]


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Jobs:
    """Every loss, trained with nothing split, when it is asked for."""
    return Jobs(tmp_path_factory)


@pytest.mark.parametrize("name", TRAINED)
def test_the_trajectory_moves(jobs: Jobs, name: str) -> None:
    """The comparisons below would hold for a policy that stands still."""
    job, whole = jobs[name]
    start = job.trainer().policy.state_dict()
    assert len(whole.metrics) == 10
    assert max(float((whole.weights[key] - start[key]).abs().max()) for key in start) > 1e-3
    assert whole.metrics[0]["loss"] != pytest.approx(whole.metrics[-1]["loss"], abs=1e-3)


@pytest.mark.parametrize(("name", "split"), ALL_SPLITS)
def test_cutting_a_step_changes_no_number(jobs: Jobs, name: str, split: str) -> None:
    job, whole = jobs[name]
    assert_same(whole, job.train(split, **SPLITS[split]))


class Stop:
    """A preemption that comes during step ``at``."""

    def __init__(self, at: int) -> None:
        self.at, self.asked = at, 0

    @property
    def requested(self) -> bool:
        self.asked += 1
        return self.asked >= self.at


@pytest.mark.parametrize("name", ONE_OF_EACH_KIND)
def test_stopping_and_going_on_changes_no_bit(jobs: Jobs, name: str, tmp_path: Path) -> None:
    job, whole = jobs[name]
    said: list[str] = []

    def safety(stop: int) -> Safety:
        return Safety(Saves(tmp_path / "saves", said.append), Stop(stop), said.append)  # type: ignore[arg-type]

    with pytest.raises(Preempted, match="step 4 of 10"):
        job.train("stopped", safety(4))
    with pytest.raises(Preempted, match="step 6 of 10"):
        job.train("stopped again", safety(2))
    resumed = job.train("resumed", safety(100))
    assert resumed.metrics == whole.metrics
    for key, weights in whole.weights.items():
        assert torch.equal(resumed.weights[key], weights), key


def tied() -> Any:
    """The tiny model with one matrix for its embeddings and its head."""
    torch.manual_seed(0)
    config = tiny_model().config
    config.tie_word_embeddings = True
    return AutoModelForCausalLM.from_config(config).eval()


def work(rank: int, folder: Path) -> None:
    """One of two processes: train every loss in every way, rank 0 keeps the trajectories."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    for name in TRAINED:
        job = Job(folder / name, loss_of(name))
        for split, changes in PROCESSES.items():
            if (name, split) not in ALL_PROCESSES:
                continue
            out = folder / name / split
            if rank == 0:
                out.mkdir(parents=True)
            dist.barrier()
            trainer = job.trainer(**changes)
            trainer.run(job.steps, out, lambda metrics, timing: None)
            weights = get_model_state_dict(trainer.module, options=options)
            if rank == 0:
                torch.save(weights, out / "weights.pt")
    policy = TrainablePolicy(folder / "tied", TrainConfig(**SETTINGS, sharding="full"), seed=0)
    job = Job(folder / "dpo", loss_of("dpo"), steps=3)
    trainer = job.trainer(policy=policy.model, sharding="full")
    (folder / "tied-by-two").mkdir(exist_ok=True)
    trainer.run(job.steps, folder / "tied-by-two", lambda metrics, timing: None)
    policy.save(folder / "tied-by-two", trainer.module, tiny_tokenizer())
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def by_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the trajectories of two processes, which one test worker makes for all."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "two"
    with FileLock(folder.with_suffix(".lock")):
        if not (folder / "done").exists():
            folder.mkdir()
            tied().save_pretrained(folder / "tied")
            tiny_tokenizer().save_pretrained(folder / "tied")
            torch.multiprocessing.start_processes(work, (folder,), 2, start_method="spawn")
            (folder / "done").touch()
    return folder


@pytest.mark.parametrize(("name", "split"), ALL_PROCESSES)
def test_two_processes_change_no_number(jobs: Jobs, by_two: Path, name: str, split: str) -> None:
    whole = jobs[name][1]
    out = by_two / name / split
    saved = torch.load(out / "weights.pt")
    weights = {key.removeprefix("policy."): value for key, value in saved.items() if key.startswith("policy.")}
    assert_same(whole, Trajectory(rows(out / "metrics.jsonl"), [], weights))


def test_a_sharded_policy_with_tied_weights_is_saved_whole(by_two: Path, tmp_path: Path) -> None:
    job = Job(tmp_path, loss_of("dpo"), steps=3)
    trainer = job.trainer(policy=tied())
    trainer.run(job.steps, tmp_path, lambda metrics, timing: None)
    saved = load_policy(by_two / "tied-by-two")
    assert saved.get_output_embeddings().weight is saved.get_input_embeddings().weight
    for key, weights in trainer.policy.state_dict().items():
        torch.testing.assert_close(saved.state_dict()[key], weights, rtol=1e-5, atol=1e-5, msg=key)
    assert not torch.allclose(saved.get_input_embeddings().weight, tied().get_input_embeddings().weight)


@pytest.mark.parametrize("name", ONE_OF_EACH_KIND)
def test_the_padding_share_is_measured(jobs: Jobs, name: str) -> None:
    job, whole = jobs[name]
    assert all(row["padding_share"] == 0 for row in whole.timing)
    padded = job.train("padded for timing", padding_free=False).timing
    assert all(0 <= row["padding_share"] < 1 for row in padded)
    assert any(row["padding_share"] > 0 for row in padded)
