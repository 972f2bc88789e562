"""Decode loops on ONNX Runtime: the cache stays in buffers on the device and is handed from step to step by address."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from transformers.cache_utils import Cache

from decodeloop.caches.buffer_pool import check_capacity
from decodeloop.caches.convert import tensors_to_cache
from decodeloop.caches.past import past_tensors
from decodeloop.caches.states import named_to_cache, present_name
from decodeloop.checks import check_choice, given_path
from decodeloop.decoding.engine import Likeliest, Past, StepCache, exclusive
from decodeloop.decoding.loop import decode, run
from decodeloop.decoding.prompt import Prompt
from decodeloop.engines.onnx_buffers import cache_shapes
from decodeloop.engines.onnx_growing_cache import GrowingCache
from decodeloop.engines.onnx_session import OnnxSession
from decodeloop.engines.onnx_shared_cache import SharedCache
from decodeloop.export.file import has_shared_cache, identity, model_settings, read_graph, read_metadata
from decodeloop.export.foreign import read_foreign
from decodeloop.models.load import pick_device
from decodeloop.models.rope import check_rope_length

if TYPE_CHECKING:
    import onnxruntime


class OnnxDecoder:
    """One ONNX Runtime session and the buffers of its cache, reused from call to call.

    The cache stays on the device and goes from step to step by address: nothing passes through numpy, and nothing is
    copied between the device and the host but the tokens. A decoder runs one generation at a time; starting the next
    one forgets the cache of the last, and another thread that asks meanwhile gets a RuntimeError. ``with
    OnnxDecoder(path) as decoder:`` closes it at the end of the block.

    Parameters
    ----------
    path : str or path
        A graph of :func:`decodeloop.export_onnx`, or one of another maker with the same inputs and outputs: Optimum's,
        and those of onnxruntime-genai's builder that attend with GroupQueryAttention (``-e cpu`` and ``-e cuda``),
        with genai_config.json or config.json beside them. A row of a padded batch gets what the graph gives to it
        alone. Refused is a graph that does not read its attention mask (the builder's ``-e dml``), whose rotary
        frequencies depend on the text's length (longrope), or whose cache is quantized, paged or sparse; and a text
        longer than a sliding window that genai's builder left out of its graph. Special tokens are those of the
        generation_config.json, config.json or genai_config.json beside such a graph, the first that is there.
    device : str or torch.device
        ``"auto"`` is CUDA where torch and onnxruntime both see a GPU.
    capacity : int, optional
        Positions that the buffers hold at first; they grow when a generation needs more. At least the prompt's length.
    cuda_graph : bool or "auto"
        On CUDA, with a graph of ``exporter="fused"``: capture a decode step once, after two of them, and replay it,
        which leaves one call per token to Python. A replayed step must first give what the step before it gave. Where
        that fails, ``"auto"`` goes on without and warns, True raises. On a CPU, ``"auto"`` does nothing.
    spinning : bool or "auto"
        On a CPU: whether threads wait in a loop for their next piece of work, for up to 0.4 ms, before they sleep. On
        two idle cores steps took two thirds of the time with it; beside another busy program, half as long again.
        ``"auto"`` spins if no other program kept a core busy when the first decoder of this process was opened. If one
        did, threads sleep, and there is one for each idle core: a thread that shares its core makes the others wait.
        Not on a GPU.
    session_options : onnxruntime.SessionOptions, optional
        Threads, optimisation level, profiling. With it, spinning is whatever these say.
    verify_weights : bool
        Compare graph and weights with the checksums that the export wrote, which takes 0.3 s for 1 GB if it is in
        memory, and no longer than reading it from the disk if not. A graph of another maker has none.

    Attributes
    ----------
    session : onnxruntime.InferenceSession
    providers : list of str
        The execution providers of the session, checked: the device that was asked for is the first.
    spinning : bool
        Whether the session's threads spin.
    config : transformers PreTrainedConfig or None
        Of the model that was exported; None where the graph does not tell.
    generation_config : transformers GenerationConfig or None
        What the exported model's checkpoint says of decoding, which greedy decoding does; None where nothing tells.
    last_only : bool
        Whether the graph gives the logits of the last position alone.

    Raises
    ------
    FileNotFoundError
        If the graph or its weights do not exist.
    ValueError
        If the graph is not a decoder with a cache, keeps its weights outside its folder, or is not what was exported
        any more, or if the device is not there.
    ImportError
        If onnxruntime is not installed.
    MemoryError
        While decoding: if there is no room for the cache, or for what a step needs besides. The message has the bytes,
        and the decoder still serves smaller requests.

    Notes
    -----
    The graph decides which cache a decoder keeps. A graph of ``exporter="dynamo"``, and one of Optimum, has a growing
    one: a step reads one set of buffers and writes a second one, then the two change places. A graph of
    ``exporter="fused"``, and one of onnxruntime-genai, has a shared one, of fixed capacity, which a step reads and
    writes in place. After the first ``prefill_chunk``, a shared cache reads a batch of several rows, and padding, token
    by token.

    Where each query head has keys of its own (Phi), cuDNN's attention was faster on an H100 than the kernel that
    onnxruntime picks: 3.7 instead of 5.1 µs per layer. ``ORT_ENABLE_XQA=0`` in the environment of the process asks for
    it; there is no option of a session for that.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        device: torch.device | str = "auto",
        capacity: int | None = None,
        cuda_graph: bool | Literal["auto"] = "auto",
        spinning: bool | Literal["auto"] = "auto",
        session_options: onnxruntime.SessionOptions | None = None,
        verify_weights: bool = True,
    ) -> None:
        check_capacity(capacity, 0)
        cuda_graph = check_choice("cuda_graph", cuda_graph, True, False, "auto")
        spinning = check_choice("spinning", spinning, True, False, "auto")
        self.path = given_path("path", path)
        self.name = self.path.name
        opened: object = ...
        while opened != (opened := identity(self.path)):  # once, unless another graph takes the name in between
            graph = read_graph(self.path, verify_weights)
            metadata = read_metadata(graph)
            self.config, self.generation_config = model_settings(metadata, self.path)
            foreign = None if metadata else read_foreign(self.path, self.config)
            shared = has_shared_cache(metadata) if foreign is None else foreign.shared
            float32 = metadata.get("dtype") == "float32" if foreign is None else foreign.float32
            if cuda_graph is True and not shared:
                raise ValueError(
                    f"cuda_graph=True: the cache of {self.name} grows, and a captured graph cannot. Export the model "
                    'with exporter="fused", or leave cuda_graph="auto".'
                )
            if shared and float32 and pick_device(device).type == "cuda":
                raise ValueError(
                    f"{self.name} is in float32, for which GroupQueryAttention has no CUDA kernel: export "
                    'the model in float16 or bfloat16, use exporter="dynamo", or device="cpu".'
                )
            self._session = OnnxSession(
                self.path,
                device,
                session_options,
                spinning,
                cuda_graphs=shared and cuda_graph,
                bits=metadata.get("bits"),
            )
        self.session, self.device = self._session.session, self._session.device
        self.providers, self.spinning = self.session.get_providers(), self._session.spinning
        self._check_signature(self._session.inputs, self._session.outputs)
        vocabulary = self._session.outputs["logits"].shape[-1]
        self.vocab_size = vocabulary if isinstance(vocabulary, int) else getattr(self.config, "vocab_size", None)
        if self.vocab_size is None:
            raise ValueError(
                f"{self.name} does not say how many tokens its vocabulary has, and no config.json lies beside it: "
                "put the model's there."
            )
        self.max_positions = getattr(self.config, "max_position_embeddings", None)
        sizes: tuple[int | None, int | None] = (None, None)
        if foreign is not None:
            self.generation_config = self.generation_config or foreign.generation_config
            self.max_positions = min(filter(None, (self.max_positions, foreign.positions)), default=None)
            sizes = foreign.heads, foreign.head_size
        self.sequential = self._session.inputs["input_ids"].shape[1] == 1
        self.last_only = self._session.outputs["logits"].shape[1] == 1 and not self.sequential
        self.generation, self.runs_async, self.lock = 0, self.device.type == "cuda", threading.RLock()
        shapes = cache_shapes(self._session, *sizes)
        self._keeps_states = any(name.startswith("past_states.") for name in shapes)
        kept = self._session, shapes, self.vocab_size, capacity
        self._cache: StepCache = SharedCache(*kept, self.max_positions) if shared else GrowingCache(*kept)

    generate, stream = run, decode

    def close(self) -> None:
        """Let go of the session and its buffers, at once. A closed decoder generates no more; closing twice is fine."""
        with exclusive(self):
            self.generation += 1  # a stream that is still open must not go on
            self.__dict__.pop("_cache", None)
            self.__dict__.pop("_session", None)
            self.__dict__.pop("session", None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __getattr__(self, name: str) -> Any:
        if name in ("_cache", "_session", "session") and "path" in self.__dict__:
            raise RuntimeError(f"this decoder of {self.name} is closed: open the graph again.")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def shared_seed(self) -> int | None:
        """None: one process runs a graph."""
        return None

    def check(
        self,
        prompt: Prompt,
        max_new_tokens: int,
        past: Past | None = None,
        rewinds: bool = False,
        all_logits: bool = False,
    ) -> None:
        """Refuse a text that outgrows the graph's rotary frequencies, and guesses that lack logits or a way back."""
        check_rope_length(self.config, prompt.longest + max_new_tokens, self.name, "a graph has one set")
        if rewinds and self._keeps_states:
            raise ValueError(
                f"lookup rewinds the cache where a guess was wrong, and {self.name} keeps states that cannot be "
                "rewound: leave lookup out."
            )
        if all_logits:
            self._check_all_logits()

    def start(self, prompt: Prompt, capacity: int, past: Past | None = None, rewinds: bool = False) -> int:
        """Forget earlier text; the number of positions that ``past`` holds."""
        self.generation += 1
        tensors, seen = ([], 0) if past is None else past_tensors(past, self.config, *prompt.input_ids.shape)
        self._cache.start(prompt, capacity)
        if tensors:
            self._cache.load(tensors, seen)
        return self._cache.length

    def forward(self, tokens: torch.Tensor, all_logits: bool = False) -> torch.Tensor:
        """Append ``tokens`` ``[batch, new]``: the logits ``[batch, 1 or new, vocabulary]``, overwritten later."""
        if all_logits and tokens.shape[1] > 1:
            self._check_all_logits()
        return self._cache.forward(tokens, all_logits)

    def likeliest(self) -> Likeliest | None:
        """The best scores after the last token, and the tokens that have them; None where no step has looked."""
        return self._cache.likeliest()

    def rewind(self, count: int) -> None:
        """Forget the last ``count`` positions."""
        self._cache.rewind(count)

    def cache(self) -> Cache:
        """A copy of the cache, as a ``DynamicCache`` that keeps every position."""
        tensors = [tensor.clone() for tensor in self._cache.tensors()]
        if self.config is None or not self._keeps_states:
            return tensors_to_cache(tensors)
        return named_to_cache(dict(zip(self._cache.shapes, tensors, strict=True)), self.config, self._cache.length)

    def feeds(self) -> dict[str, torch.Tensor]:
        """The inputs of the step that ran last, by name: what to feed the session with to run it again."""
        return dict(self._cache.feeds())

    def _check_all_logits(self) -> None:
        if self.last_only:
            raise ValueError(
                f"{self.name} gives the logits of the last position only, and this needs those of every position: "
                'export it with logits="all".'
            )

    def _check_signature(self, inputs: dict[str, Any], outputs: dict[str, Any]) -> None:
        past = [name for name in inputs if name.startswith(("past_key_values.", "past_states."))]
        if not past:
            raise ValueError(
                f"{self.name} has no cache inputs (past_key_values.0.key, ...): its inputs are "
                f"{', '.join(inputs)}. Export the model with its cache: decodeloop.export_onnx(model, path)."
            )
        known = {"input_ids", "attention_mask", "position_ids", *past}
        missing = ({"input_ids", "attention_mask"} - inputs.keys()) | (
            {"logits", *map(present_name, past)} - outputs.keys()
        )
        extra = inputs.keys() - known
        if missing or extra:
            raise ValueError(
                f"{self.name} is not a decoder: it lacks {sorted(missing)} and asks for {sorted(extra)}"
                " besides input_ids, attention_mask, position_ids, past_key_values and past_states."
            )
