"""A decode loop on PyTorch over a cache of fixed capacity, whose step is the same from token to token.

Shapes and addresses do not change, so on CUDA the step is captured once and replayed: what is left of Python is one
call per token. The cache is transformers' ``StaticCache``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self

import torch
from transformers import PreTrainedModel, StaticCache
from transformers.cache_utils import Cache

from decodeloop.caches.buffer_pool import BufferPool
from decodeloop.caches.convert import tensors_to_cache
from decodeloop.caches.past import check_shapes, past_tensors
from decodeloop.caches.shapes import state_shapes
from decodeloop.caches.states import read_state
from decodeloop.checks import check_choice
from decodeloop.decoding.engine import Likeliest, Past, exclusive
from decodeloop.decoding.loop import decode, run
from decodeloop.decoding.prompt import Prompt
from decodeloop.engines.cuda_graph import Capture
from decodeloop.engines.kernels.compiled import compiled
from decodeloop.engines.local_rows import with_local_rows
from decodeloop.engines.static_step import PLACED, StaticStep
from decodeloop.engines.step_masks import attention_kinds, takes_masks
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
        A decoder whose attention layers see all earlier positions, a sliding window of them or a chunk; others may
        keep a convolution or recurrent state.
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
        If the model has layers of another kind, or layers on several devices, or an argument cannot be used.
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
        self._check_one_device()
        if reason := self._reason_against():
            raise ValueError(
                f"{type(model).__name__} {reason}, and a step that is the same from token to token cannot have that: "
                "use decodeloop.generate(model, ...)."
            )
        on_gpu = self.device.type == "cuda"
        self.runs_async = on_gpu and not self._keeps_states  # a state cannot go back
        self.capture = Capture(cuda_graph, torch.cuda.Stream(self.device) if on_gpu else None)
        placed, self.local_rows = with_local_rows(model)
        self.forward_many = placed.forward
        self.new_forward_one = compiled(placed) if compile else lambda: placed.forward
        self.steps: BufferPool[StaticStep] = BufferPool(capacity, self.max_positions)

    generate, stream = run, decode

    def close(self) -> None:
        """Let go of the buffers and the captured steps, at once. A closed decoder generates no more.

        For a model that is spread over several GPUs, do so before ``torch.distributed.destroy_process_group()``: that
        waits, for ever, until no captured step holds kernels that send something.
        """
        with exclusive(self):
            self.generation += 1  # a stream that is still open must not go on
            for step in self.steps.kept.values() if "steps" in self.__dict__ else ():
                step.release()
            for name in ("step", "steps", "new_forward_one", "forward_many"):
                self.__dict__.pop(name, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __getattr__(self, name: str) -> Any:
        if name in ("step", "steps") and "capture" in self.__dict__:
            raise RuntimeError(f"this decoder of {self.name} is closed: make another one.")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def check(
        self,
        prompt: Prompt,
        max_new_tokens: int,
        past: Past | None = None,
        rewinds: bool = False,
        all_logits: bool = False,
    ) -> None:
        """Refuse a text that outgrows its rotary frequencies: a step that is the same throughout has one set."""
        needed, why = prompt.longest + max_new_tokens, "a step that is the same from token to token has one set"
        check_rope_length(self.config, needed, self.name, why)
        if rewinds and self._keeps_states:
            self._refuse_rewinding("recurrent or convolution state")

    def start(self, prompt: Prompt, capacity: int, past: Past | None = None, rewinds: bool = False) -> int:
        """Forget earlier text; the number of positions that ``past`` holds."""
        self.generation += 1
        self.prompt, self.length = prompt, 0
        self.padding = int((prompt.attention_mask == 0).sum(-1).max())
        batch, length = prompt.input_ids.shape
        tensors, seen = ([], 0) if past is None else past_tensors(past, self.config, batch, length, forgetful=True)
        self.step = self.steps.start(self._new_step, batch, length, capacity)
        self.step.clear()
        if tensors:
            if not self._keeps_states:  # else they were compared with all that is kept
                check_shapes(tensors, self.config, batch)
            self._load(tensors, seen)
        self.step.set_length(prompt, self.length)
        return self.length

    @torch.no_grad()
    def forward(self, tokens: torch.Tensor, all_logits: bool = False) -> torch.Tensor:
        """Append ``tokens`` ``[batch, new]``: the logits ``[batch, 1 or new, vocabulary]``, overwritten later."""
        new, seen = tokens.shape[1], self.length
        if seen + new > self.step.capacity:
            self._grow(seen + new)
        if seen and new > 1 and self._keeps_states:
            return torch.cat([self.forward(column).clone() for column in tokens.split(1, dim=1)], dim=1)
        self.length += new
        if new == 1 and seen > self.padding:  # a step takes what it reads for a token, in every row
            return self.step.run(tokens)
        # where a text begins, which tokens are padding says it all; later, which of the buffers' positions may be seen
        mask = self.step.masks.of_tokens(self.prompt, self.length, new) if seen else self.prompt.mask(self.length)
        inputs: dict[str, Any] = {"attention_mask": mask}
        if self._accepts_positions:
            inputs["position_ids"] = self.prompt.positions(self.length, new)
        if self._keeps and not all_logits:
            inputs["logits_to_keep"] = 1
        with self.step.writing_at(seen, new) as cache:
            inputs[self.cache_argument] = cache
            logits = self.forward_many(input_ids=tokens, use_cache=True, **inputs).logits
        self.step.set_length(self.prompt, self.length)
        return logits

    def likeliest(self) -> Likeliest | None:
        return self.step.likeliest()

    def rewind(self, count: int) -> None:
        """Forget the last ``count`` positions: they are hidden, and overwritten."""
        self.length -= count
        self.step.set_length(self.prompt, self.length)

    def cache(self) -> Cache:
        """A copy of the cache, as a ``DynamicCache``."""
        return tensors_to_cache([tensor.clone() for tensor in self._tensors()], self.config, length=self.length)

    def _reason_against(self) -> str | None:
        """What keeps the model from being run this way; None where nothing does."""
        try:
            layers = StaticCache(config=self.config, max_cache_len=1).layers
        except KeyError as error:  # a kind of layers for which transformers has no fixed capacity
            return f"has layers of {error.args[0]}"
        other = next((type(layer).__name__ for layer in layers if type(layer) not in PLACED), None)
        if other:
            return f"keeps a {other}"
        if self.cache_argument == "past_key_values" and not self._accepts_positions:
            return "takes no position ids"
        if not takes_masks(self.model, attention_kinds(self.config)):
            return "takes no mask for each kind of its attention layers"
        return "keeps a state in its modules, not in its cache" if self._has_silent_layers(layers) else None

    def _has_silent_layers(self, layers: Sequence[Any]) -> bool:
        """Whether a layer remembers what no cache can hand on."""
        if not self._keeps_states:
            return bool(self.model._is_stateful)
        kept = {state.layer for state in state_shapes(self.config)}
        kinds = getattr(self.config, "layer_types", None) or [""] * len(layers)
        attends_not = ("moe", "mlp")  # older versions take these layers for ones with a state
        pairs = enumerate(zip(kinds, layers, strict=False))
        return any(hasattr(x, "conv_states") and i not in kept and kind not in attends_not for i, (kind, x) in pairs)

    def _tensors(self) -> list[torch.Tensor]:
        """Views of what is kept, flat, each ``[batch, heads, length, head size]`` or a state's shape."""
        kept = [(state, read_state(self.step.cache, state)) for state in self.step.states]
        return [tensor if state.grows is None else tensor[:, :, : self.length] for state, tensor in kept]

    def _load(self, tensors: Sequence[torch.Tensor], length: int) -> None:
        self.length = length
        if length > self.step.capacity:
            self.step = self.steps.grow(self._new_step, len(tensors[0]), length, self.step.capacity)
        self.step.load([tensor.to(self.device) for tensor in tensors], length)

    def _grow(self, needed: int) -> None:
        tensors = self._tensors() if self.length else []
        self.step = self.steps.grow(self._new_step, len(self.prompt.input_ids), needed, self.step.capacity)
        if tensors:
            self._load(tensors, self.length)
        self.step.set_length(self.prompt, self.length)

    def _check_one_device(self) -> None:
        devices = sorted({str(parameter.device) for parameter in self.model.parameters()})
        if len(devices) > 1 or hasattr(self.model, "_pp_stage"):
            where = f"are on {', '.join(devices)}" if len(devices) > 1 else "are in several processes"
            raise ValueError(
                f"the layers of {self.name} {where}, and the buffers of a step are on one device: use "
                "decodeloop.generate(model, ...)."
            )

    def _new_step(self, batch: int, capacity: int) -> StaticStep:
        return StaticStep(self, batch, capacity)
