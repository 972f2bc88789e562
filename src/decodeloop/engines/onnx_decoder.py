"""Decode loops on ONNX Runtime: the cache stays in buffers on the device and is handed from step to step by address."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Unpack

import onnxruntime
import torch
from transformers import PreTrainedConfig
from transformers.cache_utils import Cache

from decodeloop.caches.buffer_pool import check_capacity
from decodeloop.caches.convert import cache_to_tensors, tensors_to_cache
from decodeloop.decoding.loop import DecodeOptions, decode, run
from decodeloop.decoding.prompt import Prompt
from decodeloop.engines.onnx_buffers import present_name
from decodeloop.engines.onnx_growing_cache import GrowingCache
from decodeloop.engines.onnx_session import Runner
from decodeloop.engines.onnx_shared_cache import SharedCache
from decodeloop.export.file import check_graph_file, graph_facts, model_facts
from decodeloop.models.load import pick_device


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
        Positions that the buffers hold at first; they grow when a generation needs more. At least the prompt's length.
    cuda_graph : bool or "auto"
        On CUDA, with a graph of ``exporter="gqa"``: capture a decode step once and replay it.
    session_options : onnxruntime.SessionOptions, optional
        Threads, optimisation level, profiling.

    Attributes
    ----------
    session : onnxruntime.InferenceSession
    providers : list of str
        The execution providers of the session, checked: the device that was asked for is the first.
    config : transformers PreTrainedConfig or None
        Of the model that was exported; None where the graph does not tell.
    last_only : bool
        Whether the graph gives the logits of the last position alone.

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
        cuda_graph: bool | str = "auto",
        session_options: onnxruntime.SessionOptions | None = None,
    ) -> None:
        check_capacity(capacity, 0)
        self.path = Path(path)
        check_graph_file(self.path)
        facts = graph_facts(self.path)
        shared = facts.get("exporter") == "gqa"
        if cuda_graph is True and not shared:
            raise ValueError(
                f"cuda_graph=True: the cache of {self.path.name} grows, and a captured graph cannot. Export the model "
                'with exporter="gqa", or leave cuda_graph="auto".'
            )
        if shared and facts["dtype"] == "float32" and pick_device(device).type == "cuda":
            raise ValueError(
                f"{self.path.name} is in float32, for which GroupQueryAttention has no CUDA kernel: export "
                'the model in float16 or bfloat16, use exporter="dynamo", or device="cpu".'
            )
        self.config, self.eos_token_id, self.pad_token_id = model_facts(facts, self.path)
        self._runner = Runner(
            self.path,
            device,
            session_options,
            cuda_graphs=shared and cuda_graph,
            bits=facts.get("bits"),
            own_keys=_own_keys(self.config),
        )
        self.session, self.device = self._runner.session, self._runner.device
        self.providers = self.session.get_providers()
        self._check_signature(self._runner.inputs, self._runner.outputs)
        vocabulary = self._runner.outputs["logits"].shape[-1]
        self.vocab_size = vocabulary if isinstance(vocabulary, int) else getattr(self.config, "vocab_size", None)
        self.max_positions = getattr(self.config, "max_position_embeddings", None)
        self.last_only = self._runner.outputs["logits"].shape[1] == 1
        self.turn, self.queues = 0, self.device.type == "cuda"
        self._cache = (SharedCache if shared else GrowingCache)(self._runner, self.vocab_size, capacity)

    def generate(self, input_ids: torch.Tensor, **options: Any) -> torch.Tensor:
        """Continue a batch of prompts; arguments, result and errors are those of :func:`decodeloop.generate`."""
        return run(self, input_ids, **options)

    def stream(self, input_ids: torch.Tensor, **options: Unpack[DecodeOptions]) -> Iterator[torch.Tensor]:
        """The tokens as they come; arguments, result and errors are those of :func:`decodeloop.stream`."""
        return decode(self, input_ids, **options)

    def start(self, prompt: Prompt, capacity: int, past: Any = None, rewinds: bool = False) -> int:
        """Forget earlier text; the number of positions that ``past`` holds."""
        self.turn += 1
        self._cache.start(prompt, capacity)
        if past is not None:
            self._cache.load(cache_to_tensors(past) if isinstance(past, Cache) else list(past))
        return self._cache.length

    def read(self, tokens: torch.Tensor, every: bool = False) -> torch.Tensor:
        """Append ``tokens`` ``[batch, new]``: the logits ``[batch, 1 or new, vocabulary]``, overwritten later."""
        if every and tokens.shape[1] > 1 and self.last_only:
            raise ValueError(
                f"{self.path.name} gives the logits of the last position only, and this needs those of every position: "
                'export it with logits="all".'
            )
        return self._cache.read(tokens, every)

    def rewind(self, count: int) -> None:
        """Forget the last ``count`` positions."""
        self._cache.rewind(count)

    def cache(self) -> Cache:
        """A copy of the cache, as a ``DynamicCache`` that keeps every position."""
        return tensors_to_cache([tensor.clone() for tensor in self._cache.tensors()])

    def feeds(self) -> dict[str, torch.Tensor]:
        """The inputs of the step that ran last, by name: what to feed the session with to run it again."""
        return dict(self._cache.feeds)

    def _check_signature(self, inputs: dict, outputs: dict) -> None:
        past = [name for name in inputs if name.startswith("past_key_values.")]
        if not past:
            raise ValueError(
                f"{self.path.name} has no cache inputs (past_key_values.0.key, ...): its inputs are "
                f"{', '.join(inputs)}. Export the model with its cache: decodeloop.export_onnx(model, path)."
            )
        known = {"input_ids", "attention_mask", "position_ids", *past}
        missing = ({"input_ids", "attention_mask"} - inputs.keys()) | (
            {"logits", *map(present_name, past)} - outputs.keys()
        )
        extra = inputs.keys() - known
        if missing or extra:
            raise ValueError(
                f"{self.path.name} is not a decoder: it lacks {sorted(missing)} and asks for {sorted(extra)}"
                " besides input_ids, attention_mask, position_ids and past_key_values."
            )


def _own_keys(config: PreTrainedConfig | None) -> bool:
    """Whether each query head has keys of its own; False where that is not known."""
    heads = getattr(config, "num_attention_heads", None)
    return heads is not None and getattr(config, "num_key_value_heads", None) in (None, heads)


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
