"""Processes that share work, and the GPUs that they take."""

import os
import time

import pytest

from labeldist.training.study import workers
from labeldist.training.study.workers import Workers


def gpu_seen(shared: str) -> tuple[str, str | None]:
    # Long enough for the other process to begin with its own.
    time.sleep(3)
    return shared, os.environ.get("CUDA_VISIBLE_DEVICES")


@pytest.mark.parametrize(("gpus", "expected"), [(["3", "5"], {"3", "5"}), (["7"], {"7"})])
def test_processes_take_the_gpus_in_turns(monkeypatch, gpus, expected):
    monkeypatch.setattr(workers, "visible_gpus", lambda: gpus)
    with Workers(2, "in common") as pool:
        seen = [future.result() for future in [pool.submit(gpu_seen), pool.submit(gpu_seen)]]
    assert {shared for shared, _ in seen} == {"in common"}
    assert {gpu for _, gpu in seen} == expected


def began(shared: bytes) -> tuple[int, float]:
    return len(shared), time.time()


def test_processes_start_beside_one_another_whatever_they_share():
    # More than a pipe holds: a process that takes it from one would keep the next from starting.
    with Workers(2, bytes(10_000_000)) as pool:
        futures = [pool.submit(began), pool.submit(began)]
        submitted = time.time()
        found = [future.result() for future in futures]
    assert [size for size, _ in found] == [10_000_000] * 2
    assert min(when for _, when in found) > submitted


def test_gpus_are_named_as_the_environment_names_them(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-abc")
    assert workers.visible_gpus() == ["4", "GPU-abc"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert workers.visible_gpus() == ["0", "1"]
