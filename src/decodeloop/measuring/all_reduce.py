"""How long ranks need to add up a tensor: what tensor parallelism pays in each layer, twice."""

from __future__ import annotations

import torch
import torch.distributed as dist

from decodeloop.checks import check_count
from decodeloop.measuring.timing import Timing, measure_all
from decodeloop.measuring.timings import Timings

MANY = 100  # all-reduces in a row: one alone would be hidden by what surrounds it


def measure_all_reduce(size: int, dtype: torch.dtype = torch.float32, *, repeats: int = 5) -> Timings[str]:
    """Time adding up a tensor over all ranks, in a script of :func:`decodeloop.run_ranks`; every rank has to call it.

    The tensors of a decode step are small, a row for each user. So it is not their bytes that take time, but that all
    ranks have to meet. A hundred all-reduces follow one another; the times are those of one.

    Parameters
    ----------
    size
        Numbers in the tensor: users times ``config.hidden_size``.
    dtype
        Their type, the model's.
    repeats
        Timed runs, of a hundred each.

    Returns
    -------
    Timings
        ``"launched"``: started by Python one by one; and on GPUs ``"captured"``: replayed by a CUDA graph, as a
        captured decode step has them.

    Raises
    ------
    ValueError
        If ``size`` or ``repeats`` is below 1.
    RuntimeError
        If there are no ranks.

    Examples
    --------
    The script ``ask.py``::

        import decodeloop

        print(decodeloop.measure_all_reduce(4096)["launched"])

    is run by ``print(decodeloop.run_ranks("ask.py"))``.
    """
    if not (dist.is_available() and dist.is_initialized()):
        raise RuntimeError("measure_all_reduce needs ranks: call it in a script that decodeloop.run_ranks runs.")
    cuda = dist.get_backend() == "nccl"
    numbers = torch.zeros(check_count("size", size, 1), dtype=dtype, device="cuda" if cuda else "cpu")

    def launched() -> None:
        for _ in range(MANY):
            dist.all_reduce(numbers)

    ways = {"launched": launched}
    if cuda:
        launched()  # NCCL makes its connections in the first one, which cannot be captured
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # NCCL's own thread asks the driver meanwhile
            launched()
        ways["captured"] = graph.replay
    timings = measure_all(ways, repeats=repeats, device=numbers.device)
    if cuda:
        graph.reset()  # NCCL would wait for it when the ranks end
    return Timings({way: Timing(tuple(t / MANY for t in timing.times)) for way, timing in timings.items()})
