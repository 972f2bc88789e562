"""Decode loops on ONNX Runtime: the cache stays in buffers on the device and is handed from step to step by address."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Unpack

import onnxruntime
import torch
from transformers.cache_utils import Cache

from decodeloop.cache import cache_to_tensors, tensors_to_cache
from decodeloop.decode import DecodeOptions, decode, run
from decodeloop.growing_cache import GrowingCache, present_name
from decodeloop.models import pick_device
from decodeloop.onnx_file import TYPES, check_graph_file, model_facts
from decodeloop.prompt import Prompt


class OnnxDecoder:
    """One ONNX Runtime session and the buffers of its cache, reused from call to call.

    A step reads the cache from one set of buffers and writes it to a second one, then the two change places: nothing
    passes through numpy, and nothing is copied between the device and the host but the tokens. A decoder runs one
    generation at a time; starting the next one forgets the cache of the last.

    Parameters
    ----------
    path : str or path
        A graph of :func:`decodeloop.export_onnx`, or any decoder with the input and output names that Optimum and
        onnxruntime-genai use.
    device : str or torch.device
        ``"auto"`` is CUDA where torch and onnxruntime both see a GPU.
    capacity : int, optional
        Positions that the buffers hold at first; they grow when a generation needs more.
    session_options : onnxruntime.SessionOptions, optional
        Threads, optimisation level, profiling.

    Attributes
    ----------
    session : onnxruntime.InferenceSession
    providers : list of str
        The execution providers of the session, checked: the device that was asked for is the first.
    config : transformers PreTrainedConfig or None
        Of the model that was exported; None where the graph does not tell.

    Raises
    ------
    FileNotFoundError
        If the graph does not exist.
    ValueError
        If the graph is not a decoder with a cache, keeps its weights outside its folder, or the device is not there.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        device: torch.device | str = "auto",
        capacity: int | None = None,
        session_options: onnxruntime.SessionOptions | None = None,
    ) -> None:
        if capacity is not None and capacity < 1:
            raise ValueError(f"capacity={capacity}: expected 1 or more positions, or None.")
        self.path = Path(path)
        check_graph_file(self.path)
        self.device = _pick_device(device)
        self.stream_ = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        self.session = _open(self.path, self.device, self.stream_, session_options)
        self.providers = self.session.get_providers()
        self._inputs = {i.name: i for i in self.session.get_inputs()}
        self._outputs = {o.name: o for o in self.session.get_outputs()}
        self._check_signature()
        self.config, self.eos_token_id, self.pad_token_id = model_facts(self.session, self.path)
        vocabulary = self._outputs["logits"].shape[-1]
        self.vocab_size = vocabulary if isinstance(vocabulary, int) else getattr(self.config, "vocab_size", None)
        self.max_positions = getattr(self.config, "max_position_embeddings", None)
        self.turn = 0
        self._cache = GrowingCache(self._inputs, self._outputs, self.device, capacity or 0)

    def generate(self, input_ids: torch.Tensor, **options: Any) -> torch.Tensor:
        """Continue a batch of prompts; arguments, result and errors are those of :func:`decodeloop.generate`."""
        return run(self, input_ids, **options)

    def stream(self, input_ids: torch.Tensor, **options: Unpack[DecodeOptions]) -> Iterator[torch.Tensor]:
        """The tokens as they come; arguments, result and errors are those of :func:`decodeloop.stream`."""
        return decode(self, input_ids, **options)

    def start(self, prompt: Prompt, capacity: int, past: Any = None, rewinds: bool = False) -> int:
        """Forget earlier text; the number of positions that ``past`` holds (:class:`decodeloop.decode.Engine`)."""
        self.turn += 1
        self.prompt = prompt
        self._cache.start(batch=len(prompt.input_ids), capacity=capacity)
        if past is not None:
            self._cache.load(cache_to_tensors(past) if isinstance(past, Cache) else list(past))
        return self._cache.length

    def read(self, tokens: torch.Tensor, every: bool = False) -> torch.Tensor:
        """Append ``tokens`` ``[batch, new]``: the logits ``[batch, 1 or new, vocabulary]``."""
        last_only = self._outputs["logits"].shape[1] == 1
        if every and last_only and tokens.shape[1] > 1:
            raise ValueError(
                f"{self.path.name} gives the logits of the last position only, and this needs those of every position: "
                'export it with logits="all".'
            )
        past, present = self._cache.advance(tokens.shape[1])
        length = self._cache.length
        given = {
            "input_ids": tokens,
            "attention_mask": self.prompt.mask(length),
            "position_ids": self.prompt.positions(length, tokens.shape[1]),
        }
        given = {n: given[n].to(TYPES[self._inputs[n].type][0]).contiguous() for n in given if n in self._inputs}
        shape = len(tokens), 1 if last_only else tokens.shape[1], self.vocab_size
        logits = torch.empty(shape, dtype=TYPES[self._outputs["logits"].type][0], device=self.device)
        binding = self.session.io_binding()
        for name, tensor in (given | past).items():
            _bind(binding.bind_input, name, tensor)
        for name, tensor in ({"logits": logits} | present).items():
            _bind(binding.bind_output, name, tensor)
        self._run(binding)
        self._feeds = given | past
        return logits

    def rewind(self, count: int) -> None:
        """Forget the last ``count`` positions."""
        self._cache.rewind(count)

    def cache(self) -> Cache:
        """A copy of the cache, as a ``DynamicCache`` that keeps every position."""
        return tensors_to_cache([tensor.clone() for tensor in self._cache.tensors()])

    def feeds(self) -> dict[str, torch.Tensor]:
        """The inputs of the step that ran last, by name: what to feed the session with to run it again."""
        return dict(self._feeds)

    def _run(self, binding: onnxruntime.IOBinding) -> None:
        if self.stream_ is None:
            self.session.run_with_iobinding(binding)
            return
        torch_stream = torch.cuda.current_stream(self.device)
        self.stream_.wait_stream(torch_stream)  # the inputs must be there
        self.session.run_with_iobinding(binding, _NO_SYNC)
        torch_stream.wait_stream(self.stream_)  # and so must the outputs, for what torch does next

    def _check_signature(self) -> None:
        past = [name for name in self._inputs if name.startswith("past_key_values.")]
        if not past:
            raise ValueError(
                f"{self.path.name} has no cache inputs (past_key_values.0.key, ...): its inputs are "
                f"{', '.join(self._inputs)}. Export the model with its cache: decodeloop.export_onnx(model, path)."
            )
        known = {"input_ids", "attention_mask", "position_ids", *past}
        missing = ({"input_ids", "attention_mask"} - self._inputs.keys()) | (
            {"logits", *map(present_name, past)} - self._outputs.keys()
        )
        extra = self._inputs.keys() - known
        if missing or extra:
            raise ValueError(
                f"{self.path.name} is not a decoder: it lacks {sorted(missing)} and asks for {sorted(extra)}"
                " besides input_ids, attention_mask, position_ids and past_key_values."
            )


def onnx_generate(
    decoder: OnnxDecoder | str | os.PathLike,
    input_ids: torch.Tensor,
    *,
    device: torch.device | str = "auto",
    return_session: bool = False,
    **options: Any,
) -> torch.Tensor | tuple[torch.Tensor, OnnxDecoder, dict[str, torch.Tensor]]:
    """Continue a batch of prompts with an ONNX graph, in one call.

    Parameters
    ----------
    decoder : OnnxDecoder, str or path
        A graph, or the decoder that an earlier call returned: opening a session takes longer than many tokens.
    input_ids : torch.Tensor
        int ``[batch, length]``.
    device : str or torch.device
        Where to run, if ``decoder`` is a path.
    return_session : bool
        Also return the decoder, to be handed to the next call, and the inputs of the last step by name.
    **options
        The keywords of :func:`decodeloop.generate`.

    Returns
    -------
    torch.Tensor, or (torch.Tensor, OnnxDecoder, dict)
        int64 ``[batch, length + new tokens]``, as :func:`decodeloop.generate` returns.
    """
    if not isinstance(decoder, OnnxDecoder):
        decoder = OnnxDecoder(decoder, device=device)
    tokens = decoder.generate(input_ids, **options)
    return (tokens, decoder, decoder.feeds()) if return_session else tokens


def _pick_device(device: torch.device | str) -> torch.device:
    picked = pick_device(device)
    if picked.type == "cuda" and "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        lacking = f"onnxruntime {onnxruntime.__version__} has no CUDA provider: pip install 'decodeloop[cuda]'"
        if device != "auto":
            raise ValueError(f"device={str(device)!r}: {lacking}.")
        warnings.warn(f"torch sees a GPU, but {lacking}. Running on the CPU.", stacklevel=3)
        return torch.device("cpu")
    return picked


def _open(path, device, stream, session_options) -> onnxruntime.InferenceSession:
    options = session_options or onnxruntime.SessionOptions()
    if session_options is None:
        options.log_severity_level = 3  # its remarks on node placement go past Python's stderr
    providers: list = ["CPUExecutionProvider"]
    if device.type == "cuda":
        cuda = {
            "device_id": str(device.index or 0),
            "user_compute_stream": str(stream.cuda_stream),
            "use_tf32": "0",  # float32 means float32, as it does in torch by default
        }
        providers.insert(0, ("CUDAExecutionProvider", cuda))
    onnxruntime.set_default_logger_severity(3)  # no plugin for CUDA is no news: the provider is built in
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    finally:
        onnxruntime.set_default_logger_severity(2)  # onnxruntime's own default
    wanted = "CUDAExecutionProvider" if device.type == "cuda" else "CPUExecutionProvider"
    if session.get_providers()[0] != wanted:
        raise ValueError(f"asked for {wanted}, and onnxruntime fell back to {session.get_providers()}.")
    return session


def _bind(bind: Any, name: str, tensor: torch.Tensor) -> None:
    number = next(number for dtype, number in TYPES.values() if dtype == tensor.dtype)
    bind(name, tensor.device.type, tensor.device.index or 0, number, tuple(tensor.shape), tensor.data_ptr())


_NO_SYNC = onnxruntime.RunOptions()
_NO_SYNC.add_run_config_entry("disable_synchronize_execution_providers", "1")
