"""Walking through a backward pass: its recording, its trace, and the ways to walk."""

from autograd.modes import current_recording
from autograd.stepper.notebook import table
from autograd.stepper.record import Call, Recording, record, recording_of
from autograd.stepper.steps import Edge, Step
from autograd.stepper.trace import Trace, trace, tracing
from autograd.stepper.walk import step, stopping_at_backward, walk

__all__ = [
    "Call",
    "Edge",
    "Recording",
    "Step",
    "Trace",
    "current_recording",
    "record",
    "recording_of",
    "step",
    "stopping_at_backward",
    "table",
    "trace",
    "tracing",
    "walk",
]
