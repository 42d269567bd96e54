"""Launches and workspaces of the Triton backend, with kernels that only record how they were called."""

from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("triton")

from labeldist.backends.fused import launching
from labeldist.backends.fused.launching import Workspace, launch


class RecordingKernel:
    """Stands for a `triton.jit` function of three arguments and one constant, and for what it compiles to."""

    arg_names = ("rows", "num_rows", "out", "BLOCK")

    def __init__(self):
        self.public, self.direct = [], []
        self.function, self.packed_metadata = "function", "metadata"

    def __getitem__(self, grid):
        def call(*arguments, **options):
            self.public.append((grid, arguments, options))
            return self

        return call

    def run(self, *arguments):
        self.direct.append(arguments)


@pytest.fixture
def on_a_gpu(monkeypatch):
    """Launches as on a GPU with a tested version of Triton."""
    monkeypatch.setattr(launching, "IS_INTERPRETED", False)
    monkeypatch.setattr(launching, "HAS_TESTED_TRITON", True)
    monkeypatch.setattr(launching, "_COMPILED", {})
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    active = SimpleNamespace(get_current_stream=lambda device: "stream")
    monkeypatch.setattr(launching, "driver", SimpleNamespace(active=active))


def slot():
    workspace = Workspace(first=((3,), torch.float16), second=((2, 2), torch.float32))
    return workspace.slots(torch.zeros(workspace.num_words, dtype=torch.int32))[1]


def test_the_second_launch_passes_addresses_to_the_compiled_kernel(on_a_gpu):
    kernel, rows, out = RecordingKernel(), torch.zeros(4), slot()
    for _ in range(2):
        launch(kernel, (5, 2), rows, 4, out, BLOCK=16)
    ((grid, arguments, options),) = kernel.public
    assert (grid, arguments[:2], options) == ((5, 2), (rows, 4), {"BLOCK": 16})
    assert arguments[2].data_ptr() == out.address
    assert kernel.direct == [
        (5, 2, 1, "stream", "function", "metadata", None, None, None, rows.data_ptr(), 4, out.address, 16)
    ]


def test_another_dtype_alignment_or_constant_is_compiled_again(on_a_gpu):
    kernel, rows = RecordingKernel(), torch.zeros(8)
    launch(kernel, (1,), rows, 4, slot(), BLOCK=16)
    launch(kernel, (1,), rows.half(), 4, slot(), BLOCK=16)
    launch(kernel, (1,), rows[1:], 4, slot(), BLOCK=16)
    launch(kernel, (1,), rows, 4, slot(), BLOCK=32)
    assert (len(kernel.public), len(kernel.direct)) == (4, 0)


def test_an_untested_triton_is_launched_by_its_public_call(on_a_gpu, monkeypatch):
    monkeypatch.setattr(launching, "HAS_TESTED_TRITON", False)
    kernel = RecordingKernel()
    for _ in range(2):
        launch(kernel, (1,), torch.zeros(4), 4, slot(), BLOCK=16)
    assert (len(kernel.public), len(kernel.direct)) == (2, 0)


def test_a_profilers_hook_sees_every_launch(on_a_gpu):
    kernel = RecordingKernel()
    hooks = launching.knobs.runtime.launch_enter_hook

    def hook(metadata) -> None:
        pass

    hooks.add(hook)
    try:
        for _ in range(2):
            launch(kernel, (1,), torch.zeros(4), 4, slot(), BLOCK=16)
    finally:
        hooks.remove(hook)
    assert (len(kernel.public), len(kernel.direct)) == (2, 0)


def test_an_empty_grid_launches_nothing(on_a_gpu):
    kernel = RecordingKernel()
    launch(kernel, (3, 0), torch.zeros(4), 4, slot(), BLOCK=16)
    assert kernel.public == []


def test_slots_are_aligned_apart_and_views_of_one_tensor():
    layout = Workspace(odd=((3,), torch.float16), empty=((0, 5), torch.float32), square=((2, 2), torch.int64))
    workspace = torch.zeros(layout.num_words, dtype=torch.int32)
    slots = layout.slots(workspace)
    for number, each in enumerate(slots, start=1):
        assert each.first_byte % launching.SLOT_ALIGNMENT == 0
        assert each.address == each.view().data_ptr() or each.view().numel() == 0
        each.view().fill_(number)
    assert [each.view().tolist() for each in slots] == [[1.0] * 3, [], [[3, 3], [3, 3]]]
    assert slots[2].as_type(torch.int32, (2, 2, 2)).view().tolist() == [[[3, 0], [3, 0]]] * 2
