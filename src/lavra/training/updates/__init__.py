"""Techniques that wrap the optimiser step, one file each.

A run holds a list of them; each one wraps all that follow it in the list, so the first is the outermost.
"""

from lavra.training.updates.anomalies import AnomalyGuard, RollBack
from lavra.training.updates.averages import ExponentialAverage, SnapshotAverage
from lavra.training.updates.awp import AdversarialWeights
from lavra.training.updates.base import Outcome, Update, run_chain
from lavra.training.updates.clip import Clip
from lavra.training.updates.fgm import FastGradientMethod
from lavra.training.updates.monitor import Monitor
from lavra.training.updates.schedule_free import ScheduleFreeWeights
from lavra.training.updates.sharpness import SharpnessAware
from lavra.training.updates.stability import Stability
from lavra.training.updates.unfreezing import GradualUnfreezing

__all__ = [
    "AdversarialWeights",
    "AnomalyGuard",
    "Clip",
    "ExponentialAverage",
    "FastGradientMethod",
    "GradualUnfreezing",
    "Monitor",
    "Outcome",
    "RollBack",
    "ScheduleFreeWeights",
    "SharpnessAware",
    "SnapshotAverage",
    "Stability",
    "Update",
    "run_chain",
]
