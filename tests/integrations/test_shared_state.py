"""The state of a loss in a file: everything comes back, nothing is unpickled, no half file is left."""

import pytest
import torch
from torch import nn

from labeldist.integrations._shared import state as module
from labeldist.integrations._shared.state import load_state, read_notes, read_state, state_of, write_state


def test_tensors_and_everything_else_come_back(tmp_path):
    shared = torch.arange(6).reshape(2, 3)
    state = {
        "a": shared,
        "same memory": shared,
        "transposed": shared.T,
        "scalar": torch.tensor(2.5, dtype=torch.float64),
        "extra": {"history": [(0.5, torch.ones(2)), (1.0, torch.zeros(2))], "name": "x", "none": None, 3: True},
    }
    write_state(tmp_path / "state.safetensors", state, run="r")
    found = read_state(tmp_path / "state.safetensors")
    assert list(found) == list(state)
    for name in ("a", "same memory", "transposed", "scalar"):
        assert torch.equal(found[name], state[name])
        assert found[name].dtype == state[name].dtype
    assert found["extra"]["history"][0][0] == 0.5
    assert torch.equal(found["extra"]["history"][0][1], torch.ones(2))
    assert {name: found["extra"][name] for name in ("name", "none", 3)} == {"name": "x", "none": None, 3: True}
    assert read_notes(tmp_path / "state.safetensors")["run"] == "r"


def test_what_would_need_a_pickle_is_refused(tmp_path):
    with pytest.raises(TypeError, match="numbers, strings, lists and dictionaries, got object in 'extra"):
        write_state(tmp_path / "state.safetensors", {"extra": {"inner": object()}})
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_earlier_file_whole(tmp_path, monkeypatch):
    path = tmp_path / "state.safetensors"
    write_state(path, {"a": torch.ones(2)})

    def full(tensors, partial, metadata):
        partial.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(module, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        write_state(path, {"a": torch.zeros(2)})
    assert torch.equal(read_state(path)["a"], torch.ones(2))
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("keep", [0, 9, 40, -1])
def test_a_damaged_file_is_told(tmp_path, keep):
    path = tmp_path / "state.safetensors"
    write_state(path, {"a": torch.ones(50)})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"is damaged\. Resume from an older checkpoint"):
        read_state(path)
    assert read_notes(path) == {}


def test_a_file_of_another_kind_is_told(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "state.safetensors"
    save_file({"a": torch.ones(2)}, path)
    with pytest.raises(ValueError, match="is damaged"):
        read_state(path)


def test_a_state_is_a_copy_and_leaves_a_part_out():
    last = nn.Linear(2, 2)
    linear = nn.Sequential(nn.Linear(2, 2), last)
    state = state_of(linear, exclude="0")
    assert set(state) == {"1.weight", "1.bias"}
    before = state["1.weight"].clone()
    with torch.no_grad():
        last.weight.zero_()
    assert torch.equal(state["1.weight"], before)
    load_state(linear, state, source="it", exclude="0")
    assert torch.equal(last.weight, before)


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        ({"weight": torch.ones(2, 2)}, "one of the two has no 'bias'"),
        ({"weight": torch.ones(2, 2), "bias": torch.ones(2), "more": torch.ones(1)}, "one of the two has no 'more'"),
        ({"weight": torch.ones(3, 2), "bias": torch.ones(3)}, "shapes differ: .*size mismatch"),
    ],
    ids=["too little", "too much", "other shapes"],
)
def test_the_state_of_another_loss_is_refused(state, sentence):
    with pytest.raises(ValueError, match=f"The file must hold the state of this loss, and {sentence}"):
        load_state(nn.Linear(2, 2), state, source="The file")
