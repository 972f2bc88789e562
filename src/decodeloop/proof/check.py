"""A graph is run beside the model that it was made from: every way of use that a decoder has, logits compared."""

from __future__ import annotations

import inspect
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedConfig, PreTrainedModel

from decodeloop.caches.states import cache_argument, keeps_states
from decodeloop.decoding.prompt import Prompt, check_prompt
from decodeloop.engines.onnx_decoder import OnnxDecoder
from decodeloop.export.supported import one_line

#: How far logits may be apart, as a share of their own size: what rounding comes to in a deep model, and no more.
TOLERANCE = {torch.float32: 0.002, torch.float16: 0.02, torch.bfloat16: 0.08}
#: What configurations call the distance beyond which a layer sees nothing.
WINDOWS = (
    "sliding_window",
    "attention_chunk_size",
    "window_size",
    "local_attention",
    "keep_window_size",
    "index_topk",
)
AT_MOST = {"cpu": 1280, "cuda": 8448}  # positions that are read to get past a window: beyond, it takes too long
COMPARED = 32  # columns of a long prompt, its last ones


@dataclass(frozen=True)
class Checked:
    """What an export's check compared. Printed: ``44 positions of 3 prompts within 9.1e-07 of the model's, 0.4 s``.

    Attributes
    ----------
    compared : bool
        Whether the graph was run at all.
    positions : int
        At how many positions the logits were compared.
    worst : float
        The largest distance of two vectors of logits, as a share of the model's own vector's length.
    seconds : float
        What the check took.
    note : str
        Why it was not run, or what it could not reach.
    """

    compared: bool
    positions: int = 0
    worst: float = 0.0
    seconds: float = 0.0
    note: str = ""

    def __bool__(self) -> bool:
        return self.compared

    def __str__(self) -> str:
        if not self.compared:
            return f"not checked: {self.note}"
        text = f"{self.positions} positions within {self.worst:.1e} of the model's, checked in {self.seconds:.1f} s"
        return f"{text}; {self.note}" if self.note else text


@dataclass(frozen=True)
class Use:
    """A way of use: rows of some lengths, padded on the left, read in pieces of so many columns."""

    name: str
    lengths: tuple[int, ...]
    pieces: tuple[int, ...]


def check_graph(path: Path, model: PreTrainedModel) -> Checked:
    """Run the graph in onnxruntime, on the model's device, and the model, without a cache, over the same texts.

    One row, read piece by piece: a prompt, single tokens past the model's window, several at once. A batch of which
    one row is padding for the most part. One row that is padded.

    Raises
    ------
    ValueError
        If the graph does not run there or computes something else: the first difference.
    """
    started = time.perf_counter()
    name = type(model).__name__
    try:
        decoder = OnnxDecoder(path, device=model.device)
    except ImportError as error:
        return Checked(False, note=str(error))
    except Exception as error:  # onnxruntime's own exceptions share no public base
        raise ValueError(
            f"{name} was exported, and onnxruntime does not open the graph on {model.device.type} in "
            f"{_dtype(model)}: {one_line(error)} Nothing is written. {_way_out(model)}"
        ) from error
    uses, note = ways_of_use(model.config.get_text_config(decoder=True), model.device)
    worst, positions, in_pieces = 0.0, 0, False
    if keeps_states(model.config) and (gap := _gap_of_steps(model)) > TOLERANCE.get(model.dtype, 0.002):
        in_pieces = True
        note = f"the model's own steps differ by {gap:.1g} from its reading of all at once; compared with its steps"
    for use in uses:
        for column, row, distance in _distances(decoder, model, use, in_pieces):
            positions, worst = positions + 1, max(worst, distance)
            if not distance <= TOLERANCE.get(model.dtype, 0.002):  # NaN too
                raise ValueError(
                    f"{name} was exported, and the graph computes something else: {use.name}, row {row}, position "
                    f"{column}: the logits are off by {distance:.2g} of their size. Nothing is written. "
                    f"{_way_out(model)}"
                )
    return Checked(True, positions, worst, time.perf_counter() - started, note)


def ways_of_use(config: PreTrainedConfig, device: torch.device) -> tuple[list[Use], str]:
    """What is run for a model, and what of it is out of reach."""
    limit = getattr(config, "max_position_embeddings", None) or AT_MOST[device.type]
    limit = min(limit, getattr(config, "original_max_position_embeddings", None) or limit)
    windows = [size for name in WINDOWS if isinstance(size := getattr(config, name, None), int) and size > 0]
    window, note = max(windows, default=0), ""
    room = min(limit, AT_MOST[device.type]) - 16
    if window > room:
        note = f"its window of {window} was not reached" if window < limit else ""
        window = max((size for size in windows if size <= room), default=0)
    long = min(max(window - 2, 9), max(room, 2))
    return [
        Use("one row", (long + 11,), (long, 1, 1, 1, 1, 1, 4, 1, 1)),
        Use("a left-padded batch", (long + 10, max((long + 4) // 4, 1) + 6), (long + 4, 1, 1, 3, 1)),
        Use("one left-padded row", (9,), (3 + 4, 2, 3)),
    ], note


def _distances(
    decoder: OnnxDecoder, model: PreTrainedModel, use: Use, in_pieces: bool
) -> Iterator[tuple[int, int, float]]:
    """``(column, row, distance)`` of what the graph says of each text at each column that it gives logits for."""
    text = _text(model, use)
    expected = _in_pieces(model, text, use.pieces) if in_pieces else _reference(model, text)
    first_kept = text.input_ids.shape[1] - expected.shape[1]
    wrong = (text.attention_mask[:, first_kept:] * ~expected.isfinite().all(-1)).nonzero().tolist()
    if wrong:
        raise ValueError(
            f"{type(model).__name__} gives logits that are no numbers itself, in {_dtype(model)}: {use.name}, row "
            f"{wrong[0][0]}, position {first_kept + wrong[0][1]}. Nothing is written: load it in float32 or bfloat16."
        )
    begun = check_prompt(text.input_ids[:, : use.pieces[0]], text.attention_mask[:, : use.pieces[0]])
    decoder.start(begun, text.input_ids.shape[1])
    seen = 0
    for piece in use.pieces:
        try:
            logits = decoder.forward(text.input_ids[:, seen : seen + piece], all_logits=not decoder.last_only)
        except Exception as error:
            raise ValueError(
                f"{type(model).__name__} was exported, and the graph does not run: {use.name}, {piece} columns after "
                f"{seen}: {one_line(error)} Nothing is written. {_way_out(model)}"
            ) from error
        seen += piece
        for column in range(max(seen - logits.shape[1], first_kept), seen):
            got = logits[:, column - seen].float()
            want = expected[:, column - first_kept].float()
            for row in text.attention_mask[:, column].nonzero()[:, 0].tolist():
                yield column, row, float((got[row] - want[row]).norm() / want[row].norm().clamp(min=1e-6))


def _text(model: PreTrainedModel, use: Use) -> Prompt:
    """Random tokens in rows of the lengths that a use has, padded on the left to the sum of its pieces."""
    vocabulary = model.config.get_text_config(decoder=True).vocab_size
    width, generator = sum(use.pieces), torch.Generator().manual_seed(0)
    ids = torch.randint(0, vocabulary, (len(use.lengths), width), generator=generator)
    mask = torch.stack([(torch.arange(width) >= width - length).long() for length in use.lengths])
    return check_prompt(ids, mask).to(model.device)


@torch.no_grad()
def _reference(model: PreTrainedModel, text: Prompt) -> torch.Tensor:
    """The model's logits ``[batch, columns kept, vocabulary]``, of all of the text at once."""
    accepts = inspect.signature(model.forward).parameters
    width = text.input_ids.shape[1]
    options = {"position_ids": text.positions(width, width)} if "position_ids" in accepts else {}
    kept = min(width, COMPARED + 16)
    keep = {"logits_to_keep": kept} if "logits_to_keep" in accepts else {}
    training = [module for module in model.modules() if module.training]
    try:
        model.eval()
        logits = model(
            input_ids=text.input_ids, attention_mask=text.attention_mask, use_cache=False, **options, **keep
        ).logits
    finally:
        for module in training:
            module.training = True
    return logits[:, -kept:]


@torch.no_grad()
def _in_pieces(model: PreTrainedModel, text: Prompt, pieces: tuple[int, ...]) -> torch.Tensor:
    """The model's logits ``[batch, columns, vocabulary]``, read in pieces through its own cache."""
    name, accepts = cache_argument(model), inspect.signature(model.forward).parameters
    cache, logits, seen = DynamicCache(config=model.config), [], 0
    for piece in pieces:
        seen += piece
        mask = text.mask(seen)
        options: dict[str, Any] = {
            name: cache,
            "attention_mask": mask if name == "past_key_values" else mask[:, -piece:],
        }
        if "position_ids" in accepts:
            options["position_ids"] = text.positions(seen, piece)
        logits.append(model(input_ids=text.input_ids[:, seen - piece : seen], use_cache=True, **options).logits)
    return torch.cat(logits, dim=1)


def _gap_of_steps(model: PreTrainedModel) -> float:
    """How far a model that reads a prompt and then token by token comes from the same model that reads all at once."""
    pieces = (5, 1, 1, 1, 1, 1, 1, 1)
    text = _text(model, Use("one row", (sum(pieces),), pieces))
    whole, steps = _reference(model, text).float(), _in_pieces(model, text, pieces).float()
    return float(((steps - whole).norm(dim=-1) / whole.norm(dim=-1).clamp(min=1e-6)).max())


def _dtype(model: PreTrainedModel) -> str:
    return str(model.dtype).removeprefix("torch.")


def _way_out(model: PreTrainedModel) -> str:
    if model.dtype == torch.bfloat16 and model.device.type == "cpu":
        return (
            "A CPU has few kernels for bfloat16: cast the model to float32, export it on a GPU, or write it for "
            "another machine with check=False."
        )
    return 'exporter="dynamo" takes more models; check=False writes it all the same, to look into it.'
