"""The most probable token of each row, as the end of a captured step.

PyTorch gives a row's scores to one block of threads, which takes 9 to 28 microseconds for a vocabulary on an H200, and
a launch between two steps besides. Here a row is looked through in pieces, and a second kernel looks through what they
found, within the step's CUDA graph: 2 microseconds.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from decodeloop.engines.kernels.overlap import launch

PIECE = 1024  # scores that a program looks through


def likeliest(logits: torch.Tensor) -> torch.Tensor:
    """What ``logits.max(-1)`` gives, of ``[rows, vocabulary]``: int64 ``[2, rows]``, tokens, then scores as float64.

    Of several best tokens, it is the first. A score that is no number counts as infinite.
    """
    with torch.cuda.device(logits.device):  # Triton's launches are on the current one
        return _likeliest(logits)


def _likeliest(logits: torch.Tensor) -> torch.Tensor:
    rows, vocabulary = logits.shape
    logits = logits if logits.stride(-1) == 1 else logits.contiguous()
    pieces = triton.cdiv(vocabulary, PIECE)
    best = torch.empty(rows, pieces, dtype=torch.float64, device=logits.device)
    tokens = torch.empty(rows, pieces, dtype=torch.int64, device=logits.device)
    found = torch.empty(2, rows, dtype=torch.int64, device=logits.device)
    given = launch(logits.device)
    _of_piece[(rows, pieces)](logits, best, tokens, logits.stride(0), vocabulary, PIECE=PIECE, num_warps=4, **given)
    _of_row[(rows,)](
        logits,
        best,
        tokens,
        found[0],
        found[1].view(torch.float64),
        logits.stride(0),
        pieces,
        SLOTS=triton.next_power_of_2(pieces),
        num_warps=2,
        **given,
    )
    return found


@triton.jit
def _of_piece(logits, best, tokens, row_stride, vocabulary, PIECE: tl.constexpr, OVERLAP: tl.constexpr):
    """The first of the best scores among some of a row's."""
    row, piece = tl.program_id(0), tl.program_id(1)
    token = piece * PIECE + tl.arange(0, PIECE)
    if OVERLAP:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    score = tl.load(logits + row.to(tl.int64) * row_stride + token, mask=token < vocabulary, other=-float("inf"))
    score = tl.where(score != score, float("inf"), score.to(tl.float64))
    highest, place = tl.max(score, axis=0, return_indices=True)
    slot = row * tl.num_programs(1) + piece
    tl.store(best + slot, highest)
    tl.store(tokens + slot, (piece * PIECE + place).to(tl.int64))


@triton.jit
def _of_row(logits, best, tokens, chosen, scores, row_stride, pieces, SLOTS: tl.constexpr, OVERLAP: tl.constexpr):
    """The first of the best pieces."""
    row, piece = tl.program_id(0), tl.arange(0, SLOTS)
    if OVERLAP:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    score = tl.load(best + row * pieces + piece, mask=piece < pieces, other=-float("inf"))
    _, place = tl.max(score, axis=0, return_indices=True)
    token = tl.load(tokens + row * pieces + place)
    tl.store(chosen + row, token)
    tl.store(scores + row, tl.load(logits + row.to(tl.int64) * row_stride + token).to(tl.float64))
