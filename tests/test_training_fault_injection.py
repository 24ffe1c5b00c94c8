"""Fault points, running out of memory, and signals."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lavra.core.errors import InputError
from lavra.core.machine import is_out_of_memory, release_memory
from lavra.core.progress import set_quiet
from lavra.training.fault_injection import Fault, InjectedError, fault_point, injected, parse_faults
from lavra.training.signals import StopRequest
from lavra.training.step import halve


def test_a_fault_happens_the_time_it_was_asked_for_and_no_other():
    with injected("step.backward:3:raise, validation:1:enospc"):
        fault_point("step.backward")
        fault_point("another place")
        fault_point("step.backward")
        with pytest.raises(InjectedError, match=r"step\.backward"):
            fault_point("step.backward")
        fault_point("step.backward")
        with pytest.raises(OSError, match="No space left"):
            fault_point("validation")
    fault_point("validation")


def test_faults_are_parsed_and_bad_ones_named():
    assert parse_faults("") == ()
    assert parse_faults("a, b:2 ,c:3:oom") == (Fault("a", 1, "kill"), Fault("b", 2, "kill"), Fault("c", 3, "oom"))
    for text in (":1:kill", "a:0:kill", "a:x", "a:1:explode", "a:1:kill:more"):
        with pytest.raises(InputError, match="does not describe a fault"):
            parse_faults(text)


def test_the_environment_is_read_once_and_kills_for_real():
    code = (
        "from lavra.training.fault_injection import fault_point\n"
        "for number in range(5): fault_point('here'); print(number, flush=True)"
    )
    environment = os.environ | {"LAVRA_FAULT": "here:3:kill", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert run.returncode == -signal.SIGKILL
    assert run.stdout.split() == ["0", "1"]


def test_errors_of_memory_are_recognised():
    with injected("step.backward:1:oom"), pytest.raises(torch.OutOfMemoryError) as caught:
        fault_point("step.backward")
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    assert is_out_of_memory(RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"))
    hf_model = RuntimeError("the step failed")
    hf_model.__cause__ = caught.value
    assert is_out_of_memory(hf_model)
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
    assert not is_out_of_memory(OSError(28, "No space left on device"))
    assert not is_out_of_memory(ValueError("out of memory"))


def test_the_real_error_of_the_cpu_allocator_is_recognised():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**55, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


def test_releasing_memory_frees_what_the_failed_step_held():
    held: list[weakref.ref] = []

    def step() -> None:
        activations = torch.zeros(10)
        held.append(weakref.ref(activations))
        raise torch.OutOfMemoryError("no memory")

    gc.disable()
    try:
        step()
    except torch.OutOfMemoryError as error:
        assert held[0]() is not None
        release_memory(error)
        assert held[0]() is None
    finally:
        gc.enable()


@given(st.integers(1, 500), st.data())
def test_halving_goes_down_through_divisors_to_one(global_batch_size: int, data):
    micro_batch_size = data.draw(
        st.sampled_from([rows for rows in range(1, global_batch_size + 1) if global_batch_size % rows == 0])
    )
    while micro_batch_size > 1:
        smaller = halve(micro_batch_size, global_batch_size)
        assert global_batch_size % smaller == 0
        assert smaller * 2 <= micro_batch_size
        assert not any(global_batch_size % rows == 0 for rows in range(smaller + 1, micro_batch_size // 2 + 1))
        micro_batch_size = smaller
    with pytest.raises(InputError, match="single row"):
        halve(micro_batch_size, global_batch_size)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_the_handlers_come_back(number: int, capsys):
    before = signal.getsignal(number)
    with StopRequest() as stop:
        assert stop.requested == 0
        signal.raise_signal(number)
        signal.raise_signal(number)  # the same press, passed on by a launcher
        assert stop.requested == number
    assert signal.getsignal(number) is before
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith("Ctrl-C:" if number == signal.SIGINT else "SIGTERM:")
    assert "a second Ctrl-C stops at once" in said


def test_a_second_ctrl_c_stops_at_once():
    before = signal.getsignal(signal.SIGINT)
    set_quiet(True)
    try:
        with StopRequest() as stop:
            signal.raise_signal(signal.SIGTERM)
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
            assert stop.requested == signal.SIGTERM
            assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    finally:
        set_quiet(False)
        signal.signal(signal.SIGINT, before)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "")])
def test_a_real_process_finishes_its_step_or_stops_at_once(number: int, expected: str):
    code = (
        "import time\n"
        "from lavra.training.signals import StopRequest\n"
        "with StopRequest() as stop:\n"
        "    print('ready', flush=True)\n"
        "    while not stop.requested: time.sleep(0.01)\n"
        "    print('asked', flush=True)\n"
        "    try:\n"
        "        while True: time.sleep(0.01)\n"
        "    except KeyboardInterrupt: print('interrupted', flush=True)\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    assert process.stdout.readline() == "asked\n"
    time.sleep(0.3)  # the second signal is one of its own, not an echo of the first
    process.send_signal(number)
    rest, _ = process.communicate()
    assert rest.strip() == expected
    assert process.returncode == (0 if expected else -signal.SIGTERM)


def test_an_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            signal.raise_signal(signal.SIGINT)
        assert stop.requested == 0
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_outside_the_main_thread_nothing_happens():
    before, seen = signal.getsignal(signal.SIGINT), []

    def work() -> None:
        with StopRequest() as stop:
            seen.append((stop.requested, signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(0, before)]
