"""A decode loop on PyTorch over a cache of fixed capacity, whose step is the same from token to token.

Shapes and addresses do not change, so on CUDA the step is captured once and replayed: what is left of Python is one
call per token. The cache is transformers' ``StaticCache``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from transformers import PreTrainedModel, StaticCache
from transformers.cache_utils import Cache, StaticLayer

from decodeloop.caches.buffer_pool import BufferPool, no_room
from decodeloop.caches.convert import empty_tensors, tensors_to_cache
from decodeloop.caches.layers import kv_layers, write_layer
from decodeloop.caches.past import check_shapes, past_tensors
from decodeloop.checks import check_choice
from decodeloop.decoding.engine import Past
from decodeloop.decoding.loop import decode, run
from decodeloop.decoding.prompt import Prompt
from decodeloop.engines.captured_step import CapturedStep
from decodeloop.engines.cuda_graph import Capture
from decodeloop.engines.kernels.merged_linear import with_merged_linears
from decodeloop.engines.torch_loop import TorchEngine
from decodeloop.models.load import LoadedModel
from decodeloop.models.rope import check_rope_length


class TorchDecoder(TorchEngine):
    """A PyTorch model and the buffers of its cache, reused from call to call.

    The counterpart of :class:`decodeloop.OnnxDecoder`; where :func:`decodeloop.generate` lets the cache grow, this one
    has a capacity. A decoder runs one generation at a time; starting the next one forgets the cache of the last.

    Parameters
    ----------
    model : transformers PreTrainedModel, or LoadedModel
        A decoder whose layers all attend to all earlier positions.
    capacity : int, optional
        Positions that the buffers hold at first; they grow when a generation needs more. At least the prompt's length.
    cuda_graph : bool or "auto"
        On CUDA: capture a decode step once and replay it. ``"auto"`` goes on without, and warns, where that fails.
    compile : bool
        Compile the step as well, by ``torch.compile``: fewer and larger kernels, for a minute of compilation for each
        number of rows and capacity, and a copy of the weights of linear layers that read the same, which become one.
        On a GPU the products of a single row and the attention are kernels of our own.

    Raises
    ------
    ValueError
        If the model has layers of another kind, or an argument cannot be used.
    """

    def __init__(
        self,
        model: PreTrainedModel | LoadedModel,
        *,
        capacity: int | None = None,
        cuda_graph: bool | Literal["auto"] = "auto",
        compile: bool = False,
    ) -> None:
        cuda_graph = check_choice("cuda_graph", cuda_graph, True, False, "auto")
        compile = check_choice("compile", compile, True, False)
        super().__init__(model)
        model = self.model
        layers = kv_layers(StaticCache(config=self.config, max_cache_len=1))
        other = next((type(layer).__name__ for layer in layers if type(layer) is not StaticLayer), None)
        local = "local" in (getattr(self.config, "attention_layers", None) or ())  # GPT-Neo: masked by the layers
        if other or local or not self._accepts_positions:
            reason = f"keeps a {other}" if other else "has local attention" if local else "takes no position ids"
            raise ValueError(
                f"{type(model).__name__} {reason}, and a step that is the same from token to token cannot have that: "
                "use decodeloop.generate(model, ...)."
            )
        on_gpu = self.device.type == "cuda"
        self.runs_async = on_gpu
        self.capture = Capture(cuda_graph, torch.cuda.Stream(self.device) if on_gpu else None)
        self.forward_one = torch.compile(for_one_token(model).forward, dynamic=False) if compile else model.forward
        self.steps: BufferPool[StaticStep] = BufferPool(capacity, self.max_positions)

    generate, stream = run, decode

    def check(self, prompt: Prompt, max_new_tokens: int, past: Past | None = None, rewinds: bool = False) -> None:
        """Refuse a text that outgrows its rotary frequencies: a step that is the same throughout has one set."""
        needed, why = prompt.longest + max_new_tokens, "a step that is the same from token to token has one set"
        check_rope_length(self.config, needed, self.name, why)

    def start(self, prompt: Prompt, capacity: int, past: Past | None = None, rewinds: bool = False) -> int:
        """Forget earlier text; the number of positions that ``past`` holds."""
        self.generation += 1
        self.prompt, self.length = prompt, 0
        batch, length = prompt.input_ids.shape
        tensors, _ = ([], 0) if past is None else past_tensors(past, self.config, batch, length)
        self.step = self.steps.start(self._new_step, batch, length, capacity)
        self.step.clear()
        if tensors:
            check_shapes(tensors, self.config, batch)
            self._load(tensors)
        self.step.set_length(prompt, self.length)
        return self.length

    @torch.no_grad()
    def forward(self, tokens: torch.Tensor, all_logits: bool = False) -> torch.Tensor:
        """Append ``tokens`` ``[batch, new]``: the logits ``[batch, 1 or new, vocabulary]``, overwritten later."""
        new, seen = tokens.shape[1], self.length
        if seen + new > self.step.capacity:
            self._grow(seen + new)
        self.length += new
        if new == 1 and seen:
            return self.step.run(tokens)
        with self.step.writing_at(torch.arange(seen, self.length, device=self.device)) as cache:
            logits = self.model(
                input_ids=tokens,
                attention_mask=self._mask(new),
                position_ids=self.prompt.positions(self.length, new),
                past_key_values=cache,
                use_cache=True,
                **({"logits_to_keep": 1} if self._keeps and not all_logits else {}),
            ).logits
        self.step.set_length(self.prompt, self.length)
        return logits

    def rewind(self, count: int) -> None:
        """Forget the last ``count`` positions: they are hidden, and overwritten."""
        self.length -= count
        self.step.set_length(self.prompt, self.length)

    def cache(self) -> Cache:
        """A copy of the cache, as a ``DynamicCache``."""
        return tensors_to_cache([tensor.clone() for tensor in self._tensors()], self.config)

    def _tensors(self) -> list[torch.Tensor]:
        """Views of the filled part, flat, each ``[batch, heads, length, head size]``."""
        both = [tensor for layer in self.step.layers for tensor in (layer.keys, layer.values)]
        return [tensor[:, :, : self.length] for tensor in both]

    def _load(self, tensors: Sequence[torch.Tensor]) -> None:
        self.length = tensors[0].shape[2]
        if self.length > self.step.capacity:
            self.step = self.steps.grow(self._new_step, len(tensors[0]), self.length, self.step.capacity)
        for index, layer in enumerate(self.step.layers):
            keys, values = tensors[2 * index : 2 * index + 2]
            write_layer(layer, keys.to(self.device), values.to(self.device), self.length)

    def _grow(self, needed: int) -> None:
        tensors = self._tensors() if self.length else []
        self.step = self.steps.grow(self._new_step, len(self.prompt.input_ids), needed, self.step.capacity)
        if tensors:
            self._load(tensors)
        self.step.set_length(self.prompt, self.length)

    def _mask(self, new: int) -> torch.Tensor:
        """What the last ``new`` positions may see, added to their scores, ``[batch, 1, new, capacity]``."""
        seen = torch.nn.functional.pad(self.prompt.mask(self.length), (0, self.step.capacity - self.length)).bool()
        rows = torch.arange(self.length - new, self.length, device=self.device)
        seen = seen[:, None, None] & (torch.arange(self.step.capacity, device=self.device) <= rows[:, None])
        return torch.zeros(seen.shape, dtype=self.model.dtype, device=self.device).masked_fill(
            ~seen, torch.finfo(self.model.dtype).min
        )

    def _new_step(self, batch: int, capacity: int) -> StaticStep:
        return StaticStep(self, batch, capacity)


def for_one_token(model: PreTrainedModel) -> PreTrainedModel:
    """The model, made for a step: its linear layers merged, and on a GPU with attention made for one query per row."""
    fast = with_merged_linears(model)
    if fast.device.type == "cuda" and fast.config._attn_implementation == "sdpa":
        from decodeloop.engines.kernels.decode_attention import NAME  # Triton comes with PyTorch for GPUs only

        fast.set_attn_implementation(NAME)
    return fast


class PlacedLayer(StaticLayer):
    """A layer of fixed capacity that is told where to write: transformers' counts for itself, a few kernels each."""

    keys: torch.Tensor  # from lazy_initialization on
    values: torch.Tensor

    def __init__(self, capacity: int, cache_position: torch.Tensor) -> None:
        super().__init__(capacity)
        self.cache_position = cache_position

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write at ``cache_position`` ``[new]``; the whole buffers."""
        made, kept = ((each.shape[1], each.shape[3]) for each in (key_states, self.keys))
        if made != kept:
            raise ValueError(f"the model makes (heads, size) {made} of keys, and its configuration says {kept}.")
        self.keys.index_copy_(2, self.cache_position, key_states)
        self.values.index_copy_(2, self.cache_position, value_states)
        return self.keys, self.values

    def get_seq_length(self) -> Any:
        """The positions before those that are written now: a tensor, since a captured step would keep an int."""
        return self.cache_position[0]


class StaticStep(CapturedStep):
    """The buffers of a step for a batch and a capacity: transformers' static cache, a mask, and where to write."""

    def __init__(self, decoder: TorchDecoder, batch: int, capacity: int) -> None:
        super().__init__(decoder.capture, batch, capacity, decoder.device)
        device, dtype, self.forward_one = decoder.device, decoder.model.dtype, decoder.forward_one
        self.cache_position = torch.zeros(1, dtype=torch.int64, device=device)
        self.cache = StaticCache(config=decoder.config, max_cache_len=capacity)
        self.layers = [PlacedLayer(capacity, self.cache_position) for _ in self.cache.layers]
        self.cache.layers = list(self.layers)
        pairs = empty_tensors(decoder.config, batch, dtype=dtype, device=device)
        try:
            self.mask = torch.zeros(batch, 1, 1, capacity, dtype=dtype, device=device)
            for layer, keys, values in zip(self.layers, pairs[::2], pairs[1::2], strict=True):
                layer.lazy_initialization(keys, values)
        except RuntimeError as error:  # torch's for the GPU is one; the CPU's has no type of its own
            each = sum(tensor.element_size() * tensor.shape[1] * tensor.shape[3] for tensor in pairs)
            raise no_room(device, batch * capacity * each) from error

    def clear(self) -> None:
        """Forget what an earlier text left: a NaN among it would stay one, however little weight a mask leaves it."""
        for layer in self.layers:
            layer.keys.zero_()
            layer.values.zero_()

    def set_length(self, prompt: Prompt, length: int) -> None:
        """The buffers hold ``length`` positions of the prompt's rows and what they said."""
        self.cache_position.fill_(length - 1)
        self.positions.copy_(prompt.positions(length, 1))
        hidden = torch.nn.functional.pad(prompt.mask(length), (0, self.capacity - length)) == 0
        self.mask.zero_().masked_fill_(hidden[:, None, None], torch.finfo(self.mask.dtype).min)

    @contextlib.contextmanager
    def writing_at(self, cache_position: torch.Tensor) -> Iterator[StaticCache]:
        """The cache, whose layers write at these positions ``[new]`` instead of the step's."""
        for layer in self.layers:
            layer.cache_position = cache_position
        try:
            yield self.cache
        finally:
            for layer in self.layers:
                layer.cache_position = self.cache_position

    def compute(self) -> None:
        self.cache_position.add_(1)
        self.positions.add_(1)
        self.mask.index_fill_(3, self.cache_position, 0)
        logits = self.forward_one(
            input_ids=self.tokens,
            attention_mask=self.mask,
            position_ids=self.positions,
            past_key_values=self.cache,
            use_cache=True,
        ).logits
        if self.logits is None:
            self.logits = logits.clone()
        else:
            self.logits.copy_(logits)

    def step_back(self) -> None:
        super().step_back()
        self.cache_position.sub_(1)
