"""Techniques around the optimiser step, one file each. The order of a run's list is their nesting, outermost first."""

from lavra.training.updates.anomalies import GuardFaults, RollBack
from lavra.training.updates.averages import ExponentialAverage, SnapshotAverage
from lavra.training.updates.base import Outcome, Update, run_chain
from lavra.training.updates.clip import Clip
from lavra.training.updates.monitor import Monitor

__all__ = [
    "Clip",
    "ExponentialAverage",
    "GuardFaults",
    "Monitor",
    "Outcome",
    "RollBack",
    "SnapshotAverage",
    "Update",
    "run_chain",
]
