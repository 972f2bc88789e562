"""Programmatic dependent launch: a kernel starts while the one before it ends, and loads what that one does not write.

Without it, a GPU starts a kernel once the last program of the one before has ended, and its memory rests meanwhile: a
microsecond or two for each of a step's kernels, which is most of a small model's step. With it, a kernel is there
early, and waits (``gdc_wait``) before it reads what others wrote. A product's weights are nobody's result, so its
first piece of them is on its way by then.

A kernel lets the next one start (``gdc_launch_dependents``) before it waits itself, so that the next one's weights are
on their way, too, while this one waits. Each kernel waits for the one before it to end, so that when one has ended, all
before it have; and what is read without waiting must have been there before the step's first kernel of this kind.
Inductor's kernels let the next one start once they have waited. Behind one of its own they may read earlier what that
one does not write; behind one of ours they wait first, which a test looks for.

Source: `CUDA's programming guide
<https://docs.nvidia.com/cuda/cuda-c-programming-guide/#programmatic-dependent-launch-and-synchronization>`_.
"""

from __future__ import annotations

import functools

import torch


@functools.cache
def overlaps(device: torch.device) -> bool:
    """Whether kernels can be launched so: from compute capability 9.0 on."""
    return torch.version.hip is None and torch.cuda.get_device_capability(device) >= (9, 0)


def launch(device: torch.device) -> dict[str, bool]:
    """How a kernel of ours is launched, as keywords: its constant ``OVERLAP``, and Triton's own option."""
    return {"OVERLAP": True, "launch_pdl": True} if overlaps(device) else {"OVERLAP": False}
