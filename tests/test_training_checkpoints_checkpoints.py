"""Checkpoints: equal bits back, every damage found, nothing lost by a full disk, an error or the order of saving."""

from __future__ import annotations

import random
import resource
import shutil
import threading
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lavra.core.errors import CorruptFile, InputError, LavraError
from lavra.training.checkpoints import checkpoints as module
from lavra.training.checkpoints.checkpoints import CheckpointStore
from lavra.training.checkpoints.format import FORMAT, Checkpoint
from lavra.training.checkpoints.tensor_files import dtype_names, write_tensors
from lavra.training.fault_injection import InjectedError, injected


def make_tensors(seed: int = 0) -> dict[str, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(16, 8, generator=generator)
    return {
        "master_weights": {"embedding": weights, "norm": torch.ones(8, dtype=torch.bfloat16)},
        "optimizer": {"embedding.exp_avg": weights * 0.1, "step": torch.tensor(seed)},
    }


def save(store: CheckpointStore, step: int, **options) -> None:
    store.save(step, make_tensors(step), {"step": step, "position": step * 7}, **options)
    store.wait()


def same_bits(left: torch.Tensor, right: torch.Tensor) -> bool:
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    return torch.equal(
        left.contiguous().reshape(-1).view(torch.uint8), right.contiguous().reshape(-1).view(torch.uint8)
    )


def assert_holds(checkpoint: Checkpoint | None, step: int) -> None:
    assert checkpoint is not None
    assert checkpoint.step == step
    assert checkpoint.state == {"step": step, "position": step * 7}
    for group, tensors in make_tensors(step).items():
        loaded = checkpoint.load(group)
        assert loaded.keys() == tensors.keys()
        assert all(same_bits(loaded[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize("background", [True, False])
def test_what_is_saved_comes_back_with_equal_bits(tmp_path: Path, background: bool):
    store = CheckpointStore(tmp_path / "checkpoints")
    assert store.latest() is None
    save(store, 120, background=background, score=2.5)
    checkpoint = CheckpointStore(tmp_path / "checkpoints").latest()
    assert_holds(checkpoint, 120)
    assert checkpoint is not None
    assert checkpoint.score == 2.5
    assert checkpoint.groups == ["master_weights", "optimizer"]
    files = ["manifest.json", "master_weights.safetensors", "optimizer.safetensors", "state.json"]
    assert sorted(path.name for path in (tmp_path / "checkpoints/step-00000120").iterdir()) == files
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000120"]


def test_special_values_and_awkward_tensors_survive(tmp_path: Path):
    base = torch.arange(24, dtype=torch.float32)
    tensors = {
        f"bits of {name}": torch.randint(0, 256, (4, 16)).byte().view(dtype)
        for dtype, name in dtype_names().items()
        if dtype != torch.bool
    }
    tensors |= {
        "bool": torch.tensor([True, False]),
        "nan payload": torch.tensor([0x7FC12345, -1, 1], dtype=torch.int32).view(torch.float32),
        "minus zero": torch.tensor(-0.0),
        "zero-d": torch.tensor(7, dtype=torch.int64),
        "empty": torch.empty(0, 3),
        "empty bf16": torch.empty(2, 0, dtype=torch.bfloat16),
        "shared, first": base[:10],
        "shared, second": base[5:20],
        "transposed": base.view(4, 6).T,
        "expanded": base[:3].expand(2, 3),
        "odd bytes": torch.arange(3, dtype=torch.uint8),
        "parameter": torch.nn.Parameter(base.clone()),
        "conjugated": torch.complex(base, base).conj(),
        "ação / ü": base[::2],
    }
    for background in (True, False):
        store = CheckpointStore(tmp_path / str(background))
        store.save(1, {"all": tensors}, {}, background=background)
        checkpoint = store.latest()
        assert checkpoint is not None
        loaded = checkpoint.load("all")
        assert loaded.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert same_bits(loaded[name], tensor.detach().resolve_conj()), name


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shapes=st.dictionaries(
        st.text(min_size=1, max_size=5).filter(lambda name: name != "__metadata__" and name.isprintable()),
        st.tuples(st.sampled_from(list(dtype_names())), st.lists(st.integers(0, 4), max_size=3)),
        max_size=6,
    )
)
def test_any_tensors_read_back_by_the_reference_library(tmp_path: Path, shapes):
    from safetensors.torch import load_file

    tensors = {name: torch.ones(shape, dtype=torch.float32).to(dtype) for name, (dtype, shape) in shapes.items()}
    path = tmp_path / "tensors.safetensors"
    path.unlink(missing_ok=True)
    record = write_tensors(path, tensors)
    assert record.size == path.stat().st_size
    loaded = load_file(path)
    assert loaded.keys() == tensors.keys()
    assert all(same_bits(loaded[name], tensors[name]) for name in tensors)


def test_a_snapshot_is_not_changed_by_training_that_goes_on(tmp_path: Path, monkeypatch):
    go_on, write = threading.Event(), module.write_tensors
    monkeypatch.setattr(module, "write_tensors", lambda path, tensors: go_on.wait(10) and write(path, tensors))
    store, tensors = CheckpointStore(tmp_path), make_tensors(3)
    for step in (3, 4):  # the second one reuses the buffers of the first
        go_on.clear()
        weights = make_tensors(step)["master_weights"]["embedding"]
        tensors["master_weights"]["embedding"].copy_(weights)
        store.save(step, tensors, {})
        tensors["master_weights"]["embedding"].add_(1)
        go_on.set()
        checkpoint = store.latest()
        assert checkpoint is not None
        assert checkpoint.step == step
        assert same_bits(checkpoint.load("master_weights")["embedding"], weights)


def damages(folder: Path):
    """Yield each file of a checkpoint in each of 20 random places, truncated there and with one bit or byte flipped."""
    chance = random.Random(0)
    for path in sorted(folder.iterdir()):
        whole = path.read_bytes()
        for _ in range(20):
            place = chance.randrange(len(whole))
            yield path, whole[:place], f"{path.name} truncated to {place}"
            flip = 1 << chance.randrange(8) if chance.random() < 0.5 else chance.randrange(1, 256)
            yield (
                path,
                whole[:place] + bytes([whole[place] ^ flip]) + whole[place + 1 :],
                f"{path.name} flipped at {place}",
            )
        yield path, whole + b"\0", f"{path.name} longer by one byte"
        yield path, b"\0" * len(whole), f"{path.name} all zeros"


def test_every_truncation_and_every_flipped_byte_is_found(tmp_path: Path, capsys):
    save(CheckpointStore(tmp_path), 1)
    save(CheckpointStore(tmp_path), 2, score=3.25)
    folder, count = tmp_path / "step-00000002", 0
    for path, content, case in damages(folder):
        whole = path.read_bytes()
        path.write_bytes(content)
        store = CheckpointStore(tmp_path)
        checkpoint = store.latest()
        assert checkpoint is not None
        assert checkpoint.step == 1, case
        [(damaged, reason)] = store.damaged
        assert damaged == folder, case
        assert path.name in reason, case
        assert str(path) in capsys.readouterr().err, case
        with pytest.raises(CorruptFile, match=path.name):
            Checkpoint.open(folder)
        path.write_bytes(whole)
        count += 1
    assert count == 4 * 42
    assert_holds(CheckpointStore(tmp_path).latest(), 2)


def test_every_single_byte_of_a_manifest_matters(tmp_path: Path):
    save(CheckpointStore(tmp_path), 2, score=3.25)
    path = tmp_path / "step-00000002/manifest.json"
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(CorruptFile, match=r"manifest\.json"):
            Checkpoint.open(path.parent)


@pytest.mark.parametrize("name", ["manifest.json", "state.json", "master_weights.safetensors", "optimizer.safetensors"])
def test_a_missing_or_renamed_file_is_found(tmp_path: Path, name: str):
    save(CheckpointStore(tmp_path), 1)
    save(CheckpointStore(tmp_path), 2)
    path = tmp_path / "step-00000002" / name
    path.rename(path.with_name("other"))
    store = CheckpointStore(tmp_path)
    assert_holds(store.latest(), 1)
    assert f"{name} is missing" in store.damaged[0][1]
    path.with_name("other").unlink()
    assert_holds(store.latest(), 1)


def test_files_that_belong_to_another_checkpoint_are_found(tmp_path: Path):
    for step in (1, 2):
        save(CheckpointStore(tmp_path), step)
    old, new = tmp_path / "step-00000001", tmp_path / "step-00000002"
    shutil.copy(old / "manifest.json", new / "manifest.json")
    with pytest.raises(CorruptFile, match="the manifest of step 1, not of step 2"):
        Checkpoint.open(new)
    shutil.rmtree(new)
    shutil.copytree(old, new)
    with pytest.raises(CorruptFile, match="the manifest of step 1, not of step 2"):
        Checkpoint.open(new)
    shutil.copytree(old, tmp_path / "my best one")  # any other name says nothing about the step
    assert Checkpoint.open(tmp_path / "my best one").step == 1
    shutil.copy(old / "master_weights.safetensors", tmp_path / "my best one/optimizer.safetensors")
    with pytest.raises(CorruptFile, match="optimizer"):
        Checkpoint.open(tmp_path / "my best one")


def test_tensors_damaged_after_the_checkpoint_was_opened_are_not_loaded(tmp_path: Path):
    store = CheckpointStore(tmp_path)
    save(store, 1)
    checkpoint = store.latest()
    assert checkpoint is not None
    path = checkpoint.folder / "master_weights.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    with pytest.raises(CorruptFile, match=r"master_weights\.safetensors"):
        checkpoint.load("master_weights")


def test_if_all_are_damaged_that_is_an_error(tmp_path: Path):
    for step in (1, 2):
        save(CheckpointStore(tmp_path), step)
    (tmp_path / "step-00000001/state.json").unlink()
    (tmp_path / "step-00000002/master_weights.safetensors").write_bytes(b"")
    with pytest.raises(CorruptFile, match="none of the checkpoints") as caught:
        CheckpointStore(tmp_path).latest()
    assert "state.json is missing" in str(caught.value)
    assert "has 0 bytes" in str(caught.value)
    assert "backup" in caught.value.remedy


def test_a_newer_format_is_refused_by_name(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("lavra.training.checkpoints.format.FORMAT", FORMAT + 1)
    save(CheckpointStore(tmp_path), 1)
    monkeypatch.undo()
    with pytest.raises(InputError, match=f"has format {FORMAT + 1}, and this lavra reads format {FORMAT}"):
        CheckpointStore(tmp_path).latest()


def test_the_newest_ones_and_the_best_are_kept_across_restarts(tmp_path: Path):
    scores = {10: 3.0, 20: 2.0, 30: 2.5, 40: float("nan"), 50: 2.2, 60: None, 70: 1.9, 80: 2.1, 90: 2.2}
    kept = {}
    for step, score in scores.items():
        store = CheckpointStore(tmp_path, keep=2)  # a new object each time: nothing is remembered but on disk
        save(store, step, score=score)
        best = store.best()
        kept[step] = (store.steps(), best and best.step)
    assert kept == {
        10: ([10], 10),
        20: ([10, 20], 20),
        30: ([20, 30], 20),
        40: ([20, 30, 40], 20),
        50: ([20, 40, 50], 20),
        60: ([20, 50, 60], 20),
        70: ([60, 70], 70),
        80: ([70, 80], 70),
        90: ([70, 80, 90], 70),
    }


def test_damaged_ones_do_not_count_among_those_that_are_kept(tmp_path: Path):
    for step in (10, 20):
        save(CheckpointStore(tmp_path), step)
    (tmp_path / "step-00000020/state.json").write_text("{}")
    save(CheckpointStore(tmp_path), 30)
    assert CheckpointStore(tmp_path).steps() == [10, 30]


def test_nothing_is_removed_when_the_disk_gives_back_something_else(tmp_path: Path, monkeypatch):
    store = CheckpointStore(tmp_path, keep=1)
    save(store, 10)
    write = module.write_tensors

    def write_badly(path, tensors):
        record = write(path, tensors)
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        return record

    monkeypatch.setattr(module, "write_tensors", write_badly)
    store.save(20, make_tensors(20), {})
    with pytest.raises(CorruptFile, match="the disk returned other data than was written"):
        store.wait()
    assert_holds(store.latest(), 10)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000010"]


def test_saving_a_step_again_replaces_it_and_drops_later_ones(tmp_path: Path):
    store = CheckpointStore(tmp_path, keep=3)
    for step in (10, 20, 30):
        save(store, step)
    store.save(20, make_tensors(99), {"again": True}, score=1.0)
    checkpoint = store.latest()
    assert checkpoint is not None
    assert (checkpoint.step, checkpoint.state, checkpoint.score) == (20, {"again": True}, 1.0)
    assert store.steps() == [10, 20]


@pytest.mark.parametrize(
    "place",
    ["checkpoint.half_file", "checkpoint.before_manifest", "checkpoint.before_rename", "checkpoint.between_renames"],
)
def test_a_replacement_that_is_cut_short_leaves_the_old_one(tmp_path: Path, place: str):
    save(CheckpointStore(tmp_path), 10)
    store = CheckpointStore(tmp_path)
    with injected(f"{place}:1:raise"):
        store.save(10, make_tensors(99), {"again": True})
        with pytest.raises(InjectedError):
            store.wait()
    assert_holds(CheckpointStore(tmp_path).latest(), 10)
    save(CheckpointStore(tmp_path), 20)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000010", "step-00000020"]


def test_an_unfinished_one_is_named_and_swept_by_the_next_save(tmp_path: Path, capsys):
    save(CheckpointStore(tmp_path), 10)
    unfinished = tmp_path / ".step-00000020.writing"
    shutil.copytree(tmp_path / "step-00000010", unfinished)
    (tmp_path / ".step-00000005.removing").mkdir()
    store = CheckpointStore(tmp_path)
    assert_holds(store.latest(), 10)
    assert store.damaged == [(unfinished, "its writing was not finished")]
    assert ".step-00000020.writing was not finished" in capsys.readouterr().err
    assert unfinished.exists()  # reading removes nothing: another process may be writing it
    save(store, 20)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000010", "step-00000020"]


@pytest.mark.parametrize("place", ["checkpoint.half_file", "checkpoint.before_manifest"])
def test_a_full_disk_in_the_background_is_a_warning(tmp_path: Path, place: str, capsys):
    warnings: list[str] = []
    store = CheckpointStore(tmp_path, keep=1, on_warning=warnings.append)
    save(store, 10)
    with injected(f"{place}:1:enospc"):
        save(store, 20)
    assert store.written == 10
    assert len(warnings) == 1
    assert warnings[0].startswith(f"DISK FULL: could not write the checkpoint of step 20 to {tmp_path}")
    assert warnings[0] in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000010"]
    assert_holds(store.latest(), 10)
    save(store, 30)
    assert_holds(store.latest(), 30)
    assert store.steps() == [30]
    assert store.written == 30


def test_a_full_disk_at_the_final_save_is_an_error(tmp_path: Path):
    store = CheckpointStore(tmp_path)
    save(store, 10)
    with injected("checkpoint.half_file:1:enospc"), pytest.raises(LavraError, match="DISK FULL") as caught:
        store.save(20, make_tensors(20), {}, background=False)
    assert "free space" in caught.value.remedy
    assert_holds(store.latest(), 10)


def test_a_disk_that_holds_too_few_makes_room_among_the_older_ones(tmp_path: Path, capsys):
    scores = {10: 1.0, 20: 3.0, 30: 2.0}
    for step, score in scores.items():
        save(CheckpointStore(tmp_path, keep=5), step, score=score)
    store = CheckpointStore(tmp_path, keep=5)
    with injected("checkpoint.half_file:1:enospc"):
        save(store, 40)
    assert store.steps() == [10, 30, 40]
    assert_holds(store.latest(), 40)
    assert "removed the checkpoints of steps [20]; that of step 30 is intact" in capsys.readouterr().err


def test_room_is_never_made_by_removing_the_last_whole_one(tmp_path: Path):
    for step in (10, 20, 30):
        save(CheckpointStore(tmp_path, keep=5), step)
    (tmp_path / "step-00000030/state.json").unlink()
    store = CheckpointStore(tmp_path, keep=5)
    with injected("checkpoint.half_file:1:enospc, checkpoint.half_file:2:enospc"):
        save(store, 40)
    assert_holds(store.latest(), 20)
    assert store.steps() == [20]


def test_a_limit_on_file_sizes_is_a_full_disk(tmp_path: Path, capsys):
    store = CheckpointStore(tmp_path)
    save(store, 10)
    big = {"master_weights": {"embedding": torch.zeros(100_000)}}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        store.save(20, big, {})
        store.wait()
        with pytest.raises(LavraError, match="DISK FULL"):
            store.save(20, big, {}, background=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "DISK FULL" in capsys.readouterr().err
    assert_holds(store.latest(), 10)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000010"]


def test_a_log_on_the_same_full_disk_does_not_stop_the_run(tmp_path: Path, capsys):
    def log(text: str) -> None:
        raise OSError(28, "No space left on device")

    store = CheckpointStore(tmp_path, on_warning=log)
    with injected("checkpoint.half_file:1:enospc"):
        save(store, 10)
    assert "could not be written to the log" in capsys.readouterr().err


def test_other_failures_in_the_background_are_raised_by_the_next_call(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    store = CheckpointStore(tmp_path / "file")
    store.save(10, make_tensors(), {})
    with pytest.raises(LavraError, match="the checkpoint of step 10 could not be written") as caught:
        store.save(20, make_tensors(), {})
    assert "you may write to it" in caught.value.remedy
    store.wait()  # and raised once


def test_without_memory_for_a_copy_training_waits_for_the_disk(tmp_path: Path, monkeypatch, capsys):
    def no_memory(self, groups):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(module.SnapshotBuffer, "copy", no_memory)
    store = CheckpointStore(tmp_path)
    store.save(10, make_tensors(10), {"step": 10, "position": 70})
    assert store.steps() == [10]
    assert "not enough memory for a second copy" in capsys.readouterr().err
    assert_holds(store.latest(), 10)
    with injected("checkpoint.half_file:1:enospc"):
        store.save(20, make_tensors(20), {})
    assert store.steps() == [10]


@pytest.mark.parametrize(
    ("state", "place"),
    [
        ({"order": {3: 1}}, "state.order has the key 3"),
        ({"order": [1, (2, 3)]}, r"state\.order\[1\] is a tuple"),
        ({"rng": torch.zeros(1)}, "state.rng is a Tensor"),
    ],
)
def test_a_state_that_json_would_change_is_refused(tmp_path: Path, state, place: str):
    with pytest.raises(TypeError, match=place):
        CheckpointStore(tmp_path).save(1, {}, state)


def test_numbers_in_the_state_come_back_exactly(tmp_path: Path):
    state = {"a": 0.1 + 0.2, "b": 2**200, "c": [float("inf"), None, True], "d": "ção \ud800", "e": {"f": -0.0}}
    store = CheckpointStore(tmp_path)
    store.save(1, {}, state)
    checkpoint = store.latest()
    assert checkpoint is not None
    assert repr(checkpoint.state) == repr(state)


def test_wrong_requests_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="at least one"):
        CheckpointStore(tmp_path, keep=0)
    with pytest.raises(ValueError, match="small letters"):
        CheckpointStore(tmp_path).save(1, {"../up": {}}, {})
    with pytest.raises(TypeError, match="'sparse'"):
        CheckpointStore(tmp_path).save(1, {"master_weights": {"sparse": torch.eye(2).to_sparse()}}, {})
    with pytest.raises(TypeError, match="'meta'"):
        CheckpointStore(tmp_path).save(
            1, {"master_weights": {"meta": torch.empty(2, device="meta")}}, {}, background=False
        )
