"""Training: plain PyTorch, rows cut from token streams, stopped on validation loss or on time."""

import copy
import math
import time
from dataclasses import dataclass, field

import torch
from torch.nn import functional
from transformers import PhiForCausalLM

from .corpus import Stream


@dataclass(frozen=True)
class Plan:
    steps: int = 1600  # the standard library is learnt by heart after that
    minutes: float = 5.0  # a slower GPU still sees the whole schedule
    rows: int = 96
    length: int = 1024
    stdlib_share: float = 0.15  # of the rows
    given_weight: float = 0.2  # of the tokens that a model is given, against 1 for those it has to write
    learning_rate: float = 1.5e-3
    last_rate: float = 0.02  # of the learning rate, at the end
    warmup: int = 200
    weight_decay: float = 0.1
    validate_every: int = 200
    patience: int = 10  # validations without a better loss
    seed: int = 0
    compile: bool = False


@dataclass
class Outcome:
    steps: int = 0
    seconds: float = 0.0
    tokens: int = 0
    stopped_by: str = "steps"
    best_step: int = 0
    losses: dict[str, float] = field(default_factory=dict)  # of the best step
    history: list[dict] = field(default_factory=list)


def rows_of(stream: Stream, starts: torch.Tensor, length: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Inputs, targets [rows, length] and which targets are graded, for rows that begin at `starts`."""
    index = starts[:, None] + torch.arange(length + 1, device=starts.device)
    index = index.remainder(len(stream.tokens))  # a row that runs over the end goes on at the beginning, a start too
    tokens = stream.tokens[index].long()
    return tokens[:, :-1], tokens[:, 1:], stream.graded[index[:, 1:]]


def sample(stream: Stream, count: int, length: int, generator: torch.Generator):
    pick = torch.randint(len(stream.starts), (count,), generator=generator, device=stream.starts.device)
    return rows_of(stream, stream.starts[pick], length)


def token_losses(model, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross entropy of every target, [rows, length]."""
    with torch.autocast(inputs.device.type, torch.bfloat16, enabled=inputs.device.type == "cuda"):
        logits = model(input_ids=inputs, use_cache=False).logits
    return functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)


@torch.no_grad()
def validation_loss(model, stream: Stream, rows: int, length: int, batches: int = 4) -> float:
    """Mean loss of the graded tokens in rows spread evenly over the stream."""
    picks = torch.linspace(0, len(stream.starts) - 1, rows * batches, device=stream.starts.device).long()
    total, count = 0.0, 0
    for part in stream.starts[picks].split(rows):
        inputs, targets, graded = rows_of(stream, part, length)
        losses = token_losses(model, inputs, targets)
        total += losses[graded].sum().item()
        count += graded.sum().item()
    return total / max(count, 1)


def parameter_groups(model: PhiForCausalLM, weight_decay: float) -> list[dict]:
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() <= 1]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]


def rate(plan: Plan, step: int, seconds: float) -> float:
    """The learning rate: a warm-up, then a cosine that ends with the steps or the minutes, whichever end first."""
    progress = min(1.0, max(step / plan.steps, seconds / (plan.minutes * 60)))
    cosine = plan.last_rate + (1 - plan.last_rate) * 0.5 * (1 + math.cos(math.pi * progress))
    return plan.learning_rate * cosine * min(1.0, (step + 1) / plan.warmup)


def train(
    model: PhiForCausalLM, exercises: Stream, stdlib: Stream, validation: dict[str, Stream], plan: Plan, device: str
) -> Outcome:
    """Train in place. At the end the model holds the weights that validated best, in float32, on `device`.

    `validation` holds the streams ``combinations``, ``wordings`` and ``stdlib``. The loss that decides weighs them as
    the training rows are weighed.
    """
    model.to(device).train()
    for layer in model.model.layers:  # the same function as gelu_new, in one kernel
        layer.mlp.activation_fn = torch.nn.GELU(approximate="tanh")
    run = torch.compile(model, dynamic=False) if plan.compile else model
    exercises, stdlib = exercises.to(device), stdlib.to(device)
    validation = {name: stream.to(device) for name, stream in validation.items()}
    optimizer = torch.optim.AdamW(
        parameter_groups(model, plan.weight_decay), lr=plan.learning_rate, betas=(0.9, 0.95), fused=device == "cuda"
    )
    generator = torch.Generator(device).manual_seed(plan.seed)
    outcome, best, best_state, worse = Outcome(), math.inf, None, 0
    began = time.perf_counter()
    for step in range(plan.steps):
        seconds = time.perf_counter() - began
        if seconds > plan.minutes * 60:
            outcome.stopped_by = "time"
            break
        for group in optimizer.param_groups:
            group["lr"] = rate(plan, step, seconds)
        # One step in eight has rows of twice the length, so that long contexts are no news.
        times = 2 if step % 8 == 7 and 2 * plan.length <= model.config.max_position_embeddings else 1
        rows, length = plan.rows // times, plan.length * times
        library = max(1, round(rows * plan.stdlib_share))
        parts = zip(
            sample(exercises, rows - library, length, generator),
            sample(stdlib, library, length, generator),
            strict=True,
        )
        inputs, targets, graded = (torch.cat(part) for part in parts)
        weights = graded + ~graded * plan.given_weight
        loss = (token_losses(run, inputs, targets) * weights).sum() / weights.sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        outcome.steps, outcome.tokens = step + 1, outcome.tokens + inputs.numel()

        if (step + 1) % plan.validate_every == 0 or step + 1 == plan.steps:
            model.eval()
            losses = {
                name: validation_loss(model, stream, plan.rows, plan.length) for name, stream in validation.items()
            }
            model.train()
            score = (1 - plan.stdlib_share) * (losses["combinations"] + losses["wordings"]) / 2
            score += plan.stdlib_share * losses["stdlib"]
            record = {
                "step": step + 1,
                "seconds": round(time.perf_counter() - began, 1),
                "train": loss.item(),
                **losses,
            }
            outcome.history.append({k: round(v, 4) for k, v in record.items()})
            print("  ".join(f"{k} {v:.4g}" for k, v in record.items()), f" score {score:.4f}", flush=True)
            if score < best:
                best, best_state, worse = score, copy.deepcopy(model.state_dict()), 0
                outcome.best_step, outcome.losses = step + 1, losses
            else:
                worse += 1
            if worse >= plan.patience:
                outcome.stopped_by = "validation loss"
                break
    outcome.seconds = time.perf_counter() - began
    if best_state is not None:
        model.load_state_dict(best_state)
    model.eval()
    return outcome
