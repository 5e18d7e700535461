"""Saved states: going on equals never having stopped, and nothing that happens to a save loses the last good one."""

from __future__ import annotations

import errno
import os
import random
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import tiny_model
from torch import Tensor, nn
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from kto_bench.training.config import TrainConfig
from kto_bench.training.optimiser import build_optimiser
from kto_bench.training.saves import MANIFEST, SaveError, Saves

STEPS = 8
MODES = ("ddp", "fsdp")


class Wrapped(nn.Module):
    """A policy inside another module, as the trainer has it, with a buffer that is saved too."""

    def __init__(self, policy: Any) -> None:
        super().__init__()
        self.policy = policy
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))

    def forward(self, ids: Tensor) -> Tensor:
        self.seen += 1
        return self.policy(input_ids=ids).logits.log_softmax(-1)


class Training:
    """A few steps on random tokens, drawn from the global generator so that its state matters."""

    def __init__(self, module: nn.Module | None = None, optimiser: str = "adamw") -> None:
        self.module = Wrapped(tiny_model()) if module is None else module
        config = TrainConfig(optimizer=optimiser, learning_rate=1e-2, weight_decay=0.1, steps=STEPS)
        self.optimiser, self.scheduler = build_optimiser(self.module, config, STEPS)

    def go(self, steps: int) -> Training:
        for _ in range(steps):
            shift = int(np.random.randint(3)) + random.randrange(3)
            ids = (torch.randint(0, 50, (2, 6)) + shift) % 64
            scores = self.module(ids)
            (-scores[:, :-1].gather(-1, ids[:, 1:, None]).mean()).backward()
            self.optimiser.step()
            self.optimiser.zero_grad(set_to_none=True)
            self.scheduler.step()
        return self

    def save(self, saves: Saves, step: int, *files: Path) -> None:
        saves.save(step, self.module, self.optimiser, self.scheduler, files)

    def load(self, saves: Saves, into: Path) -> int:
        return saves.load(self.module, self.optimiser, self.scheduler, into)

    def weights(self) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in self.module.state_dict().items()}


def seed(value: int = 0) -> None:
    random.seed(value)
    np.random.seed(value)
    torch.manual_seed(value)


def same(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    assert one.keys() == two.keys()
    return all(torch.equal(one[name], two[name]) for name in one)


def saved_at(folder: Path, *steps: int) -> dict[int, dict[str, Tensor]]:
    """Train and save after each of ``steps``; the weights at each."""
    seed()
    training, weights, done = Training(), {}, 0
    for step in steps:
        training.go(step - done).save(Saves(folder, print), step)
        weights[step], done = training.weights(), step
    return weights


def loaded(folder: Path, into: Path) -> tuple[int, dict[str, Tensor], list[str]]:
    """Step, weights and what was said by a fresh training that loads."""
    said: list[str] = []
    training = Training()
    step = training.load(Saves(folder, said.append), into)
    return step, training.weights(), said


@pytest.mark.parametrize("optimiser", ["adamw", "rmsprop"])
def test_going_on_equals_never_having_stopped(tmp_path: Path, optimiser: str) -> None:
    seed()
    training = Training(optimiser=optimiser).go(3)
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text("one\n")
    training.save(Saves(tmp_path / "saved", print), 3, metrics)
    expected = training.go(4).weights()
    rates = training.scheduler.get_last_lr()

    seed(1)  # nothing may depend on what the new process has drawn before
    metrics.unlink()
    said: list[str] = []
    again = Training(optimiser=optimiser)
    assert again.load(Saves(tmp_path / "saved", said.append), tmp_path) == 3
    assert said == ["training goes on from step 3"]
    assert metrics.read_text() == "one\n"
    assert same(again.go(4).weights(), expected)
    assert again.scheduler.get_last_lr() == rates
    assert again.module.seen == 7


def test_saving_changes_nothing(tmp_path: Path) -> None:
    seed()
    expected = Training().go(5).weights()
    seed()
    training = Training()
    for step in range(1, 6):
        training.go(1).save(Saves(tmp_path / "saved", print), step)
    assert same(training.weights(), expected)


def test_without_a_state_nothing_changes_and_nothing_is_said(tmp_path: Path) -> None:
    seed()
    expected = Training().go(3).weights()
    seed()
    training = Training()
    assert training.load(Saves(tmp_path / "saved", pytest.fail), tmp_path) == 0
    assert not training.optimiser.state
    assert same(training.go(3).weights(), expected)


def test_tied_weights_stay_tied(tmp_path: Path) -> None:
    def tied() -> Training:
        policy = tiny_model()
        policy.config.tie_word_embeddings = True
        policy.tie_weights()
        return Training(Wrapped(policy))

    seed()
    training = tied().go(2)
    assert training.module.policy.lm_head.weight is training.module.policy.model.embed_tokens.weight
    training.save(Saves(tmp_path, print), 2)
    expected = training.go(3).weights()
    again = tied()
    assert again.load(Saves(tmp_path, print), tmp_path) == 2
    assert same(again.go(3).weights(), expected)


def test_frozen_parameters_are_left_out(tmp_path: Path) -> None:
    """Only matrices are trained, as with adapters, so one of the optimiser's groups is empty."""

    def partly_frozen() -> Training:
        policy = tiny_model()
        for name, parameter in policy.named_parameters():
            parameter.requires_grad_(name.endswith("q_proj.weight"))
        return Training(Wrapped(policy))

    seed()
    training = partly_frozen().go(2)
    training.save(Saves(tmp_path / "some", print), 2)
    saved = FileSystemReader(tmp_path / "some" / "step-00000002" / "state").read_metadata().state_dict_metadata
    trained = {f"policy.model.layers.{layer}.self_attn.q_proj.weight" for layer in (0, 1)}
    assert {name for name in saved if name.startswith("model.")} == {f"model.{name}" for name in (*trained, "seen")}
    expected = training.go(3).weights()
    again = partly_frozen()
    assert again.load(Saves(tmp_path / "some", print), tmp_path) == 2
    assert same(again.go(3).weights(), expected)


def test_a_state_of_another_model_is_refused_by_name(tmp_path: Path) -> None:
    saved_at(tmp_path / "saved", 1)
    with pytest.raises(SaveError, match=r"step-00000001 is whole, but cannot be restored: .* to train afresh"):
        Training(Wrapped(tiny_model("gpt_neox"))).load(Saves(tmp_path / "saved", print), tmp_path)


def test_the_newest_two_are_kept_and_leftovers_removed(tmp_path: Path) -> None:
    (tmp_path / "step-00000009.partial" / "state").mkdir(parents=True)
    saved_at(tmp_path, 1, 2, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002", "step-00000003"]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a flipped bit in the weights": (lambda state: flip(next(state.rglob("*.distcp"))), "distcp has other content"),
    "a flipped bit in the progress": (lambda state: flip(state / "progress.json"), "progress.json has other content"),
    "a missing file": (lambda state: (state / "random-0.json").unlink(), "random-0.json is missing"),
    "a shortened file": (lambda state: os.truncate(state / "state" / ".metadata", 9), ".metadata has other content"),
    "a truncated manifest": (lambda state: os.truncate(state / MANIFEST, 40), "manifest.json is not whole"),
    "an empty manifest": (lambda state: (state / MANIFEST).write_text("{}"), "manifest.json is not whole"),
    "a missing manifest": (lambda state: (state / MANIFEST).unlink(), "manifest.json is missing"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_state_is_told_about_and_the_one_before_it_used(tmp_path: Path, damage: str) -> None:
    weights = saved_at(tmp_path / "saved", 2, 4)
    spoil, complaint = DAMAGES[damage]
    spoil(tmp_path / "saved" / "step-00000004")
    step, found, (said,) = loaded(tmp_path / "saved", tmp_path)
    assert step == 2
    assert same(found, weights[2])
    assert "step-00000004 is damaged (" in said
    assert complaint in said
    assert said.endswith("; training goes on from step 2")


def test_with_no_good_state_training_starts_afresh_and_says_so(tmp_path: Path) -> None:
    saved_at(tmp_path / "saved", 2, 4)
    for state in (tmp_path / "saved").iterdir():
        (state / "progress.json").unlink()
    step, found, (said,) = loaded(tmp_path / "saved", tmp_path)
    assert step == 0
    assert same(found, Training().weights())
    assert "step-00000002 is damaged (progress.json is missing)" in said
    assert "step-00000004 is damaged (progress.json is missing)" in said
    assert said.endswith("training starts afresh")


def test_a_damaged_state_does_not_push_out_a_good_one(tmp_path: Path) -> None:
    """After the fall back to step 2, the damaged step 4 counts for nothing."""
    saved_at(tmp_path / "saved", 2, 4)
    (tmp_path / "saved" / "step-00000004" / MANIFEST).unlink()
    training = Training()
    assert training.load(Saves(tmp_path / "saved", print), tmp_path) == 2
    training.go(1).save(Saves(tmp_path / "saved", print), 3)
    assert sorted(path.name for path in (tmp_path / "saved").iterdir()) == ["step-00000002", "step-00000003"]
    training.go(1).save(Saves(tmp_path / "saved", print), 4)
    assert loaded(tmp_path / "saved", tmp_path)[0] == 4


def test_a_damaged_state_of_the_same_step_is_replaced(tmp_path: Path) -> None:
    weights = saved_at(tmp_path / "saved", 2, 4)
    flip(tmp_path / "saved" / "step-00000004" / "progress.json")
    training = Training()
    assert training.load(Saves(tmp_path / "saved", print), tmp_path) == 2
    training.go(2).save(Saves(tmp_path / "saved", print), 4)
    step, found, said = loaded(tmp_path / "saved", tmp_path)
    assert (step, said) == (4, ["training goes on from step 4"])
    assert same(found, weights[4])


def in_child(action: Callable[[], object]) -> int:
    """Do ``action`` in a fork of this process. Returns how it ended, as ``os.waitstatus_to_exitcode`` has it."""
    child = os.fork()
    if child == 0:
        try:
            action()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_before(operation: int, folder: Path) -> None:
    """Kill this process right before its n-th opening, making, renaming or deleting below ``folder``."""
    done = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal done
        if event in {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir"} and str(folder) in str(arguments[0]):
            done += 1
            if done == operation:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def test_a_kill_before_any_file_operation_leaves_a_good_state(tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    weights = saved_at(folder, 1, 2)
    seed()
    training = Training().go(3)
    weights[3] = training.weights()
    operation, steps = 0, []
    ended = -signal.SIGKILL
    while ended == -signal.SIGKILL:
        operation += 1

        def save() -> None:
            killed_before(operation, folder)  # noqa: B023 - the child is done before the next round
            training.save(Saves(folder, print), 3)

        ended = in_child(save)
        step, found, said = loaded(folder, tmp_path)
        assert said == [f"training goes on from step {step}"], f"killed before file operation {operation}"
        assert same(found, weights[step])
        steps.append(step)
        if step == 3:
            break
    assert ended == -signal.SIGKILL, "the state is in place before the child ends"
    assert set(steps) == {2, 3}
    assert operation > 15
    # Those after the renaming: the state is there, and what the kill left is removed by the next save.
    training.go(1).save(Saves(folder, print), 4)
    assert sorted(path.name for path in folder.iterdir()) == ["step-00000003", "step-00000004"]


def test_sigkill_in_the_middle_of_a_save_leaves_a_good_state(tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    training = Training().go(1)
    moments = random.Random(0)
    for _ in range(3):
        child = os.fork()
        if child == 0:
            for step in range(1, 10_000):
                training.save(Saves(folder, print), step)
            os._exit(0)
        deadline = time.monotonic() + 60
        while not (folder / "step-00000003").exists() and time.monotonic() < deadline:
            time.sleep(0.001)
        while not list(folder.glob("*.partial")) and time.monotonic() < deadline:
            pass
        time.sleep(moments.uniform(0, 0.01))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        step, found, _ = loaded(folder, tmp_path)
        assert step >= 2
        assert same(found, training.weights())


@pytest.fixture
def full_disk() -> Iterator[Callable[[int], None]]:
    """Files of this process can be no longer than so many bytes: a write that the system itself refuses."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda limit: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("limit", [0, 1_000, 50_000, 200_000])
def test_a_write_that_the_system_refuses_keeps_the_last_state(
    tmp_path: Path, full_disk: Callable[[int], None], limit: int
) -> None:
    """At the first file, in the random states, in the middle of the weights."""
    folder = tmp_path / "saved"
    weights = saved_at(folder, 2)
    training = Training().go(1)
    before = training.weights()
    full_disk(limit)
    with pytest.raises(SaveError) as caught:
        training.save(Saves(folder, print), 3)
    full_disk(resource.getrlimit(resource.RLIMIT_FSIZE)[1])
    # Weights, two moments and a step each, in float32, and the buffer: counted by hand from the model.
    parameters = list(training.module.parameters())
    needed = 4 * sum(3 * parameter.numel() + 1 for parameter in parameters) + 8
    assert f"could not be written to {folder}: " in str(caught.value)
    assert f"A state takes {needed / 1e9:,.3f} GB and " in str(caught.value)
    assert "`artifacts`" in str(caught.value)
    assert str(caught.value).endswith("The state of step 2 is kept")
    assert [path.name for path in folder.iterdir()] == ["step-00000002"]
    assert same(training.weights(), before)
    step, found, _ = loaded(folder, tmp_path)
    assert step == 2
    assert same(found, weights[2])
    training.save(Saves(folder, print), 3)
    assert loaded(folder, tmp_path)[0] == 3


def test_a_full_disk_at_any_file_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ENOSPC as ``fsync`` reports it, from the n-th call on."""
    real, allowed = os.fsync, 0
    training = Training().go(1)
    training.save(Saves(tmp_path / "saved", print), 1)

    def full(descriptor: int) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    left, error = 0, "not tried yet"
    while error:
        left, allowed, error = allowed, allowed + 1, ""
        try:
            training.save(Saves(tmp_path / "saved", print), 2)
        except SaveError as caught:
            error = str(caught)
        assert not error or "OSError: [Errno 28] No space left on device" in error
        assert not list((tmp_path / "saved").glob("*.partial"))
        # The last of all is that of the folder, when the state is in place already.
        assert loaded(tmp_path / "saved", tmp_path)[0] in ((1, 2) if error else (2,))
    # Four files, the manifest and three folders at least.
    assert allowed >= 8


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return int(listener.getsockname()[1])


def wrapped(mode: str) -> nn.Module:
    """The module for two processes."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.nn.parallel import DistributedDataParallel

    module = Wrapped(tiny_model())
    if mode == "ddp":
        return DistributedDataParallel(module)
    mesh = init_device_mesh("cpu", (2,))
    for layer in module.policy.model.layers:
        fully_shard(layer, mesh=mesh)
    return fully_shard(module, mesh=mesh)


def full_weights(training: Training) -> dict[str, Tensor]:
    options = StateDictOptions(full_state_dict=True)
    return {name: value.clone() for name, value in get_model_state_dict(training.module, options=options).items()}


def work_of_two(rank: int, port: int, folder: Path) -> None:
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"tcp://localhost:{port}", rank=rank, world_size=2)
    try:
        for mode in MODES:
            go_on_as_two(rank, folder, mode)
            fail_as_two(rank, folder, mode)
    finally:
        dist.destroy_process_group()


def go_on_as_two(rank: int, folder: Path, mode: str) -> None:
    """Go on from the state of one process; save as two; go on from that."""
    training = Training(wrapped(mode))
    assert training.load(Saves(folder / "one", print), folder) == 2
    seed()
    training.go(2)
    # From here on, the processes draw different numbers.
    seed(rank)
    training.save(Saves(folder / mode, print), 4, folder / "metrics.jsonl")
    torch.save(full_weights(training), folder / f"{mode}-4-{rank}.pt")
    expected = full_weights(training.go(2))

    seed(9)
    said: list[str] = []
    again = Training(wrapped(mode))
    assert again.load(Saves(folder / mode, said.append), folder / f"into-{mode}") == 4
    assert said == (["training goes on from step 4"] if rank == 0 else [])
    assert same(full_weights(again.go(2)), expected)


def fail_as_two(rank: int, folder: Path, mode: str) -> None:
    """A full disk that only one process meets, and damage in the part that it wrote: both come to the same end."""
    import torch.distributed as dist

    training = Training(wrapped(mode)).go(1)
    with pytest.MonkeyPatch.context() as patched:
        if rank == 1:
            patched.setattr(os, "fsync", no_space)
        with pytest.raises(SaveError, match=r"No space left on device.*The state of step 4 is kept"):
            training.save(Saves(folder / mode, print), 6)
    dist.barrier()
    assert [path.name for path in (folder / mode).iterdir()] == ["step-00000004"]
    dist.barrier()
    training.save(Saves(folder / mode, print), 6)
    if rank == 0:
        flip(folder / mode / "step-00000006" / "state" / "__1_0.distcp")
    dist.barrier()
    said: list[str] = []
    assert Training(wrapped(mode)).load(Saves(folder / mode, said.append), folder) == 4
    assert len(said) == (1 if rank == 0 else 0)


def no_space(descriptor: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_the_number_of_processes_may_change(tmp_path: Path) -> None:
    """Saved by one and loaded by two, and the reverse. Both processes see the batches that one process sees alone."""
    seed()
    training = Training().go(2)
    training.save(Saves(tmp_path / "one", print), 2)
    (tmp_path / "metrics.jsonl").write_text("two\n")
    for mode in MODES:
        (tmp_path / f"into-{mode}").mkdir()
    torch.multiprocessing.spawn(work_of_two, (free_port(), tmp_path), nprocs=2)
    seed()
    expected = training.go(2).weights()
    seed()
    later = training.go(2).weights()
    for mode in MODES:
        assert (tmp_path / f"into-{mode}" / "metrics.jsonl").read_text() == "two\n"
        for rank in (0, 1):
            found = torch.load(tmp_path / f"{mode}-4-{rank}.pt")
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
        again = Training()
        (tmp_path / mode / "step-00000006" / MANIFEST).unlink()
        assert again.load(Saves(tmp_path / mode, print), tmp_path) == 4
        torch.testing.assert_close(again.weights(), expected, rtol=0, atol=1e-6)
        seed()
        torch.testing.assert_close(again.go(2).weights(), later, rtol=0, atol=1e-6)
