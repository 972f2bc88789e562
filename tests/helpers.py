"""What several tests build: tiny random models, prompts, padded batches."""

import torch

SMALL = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,  # wide enough for text that does not repeat one token
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def build(model_class, config_class, **options):
    torch.manual_seed(0)
    return model_class(config_class(**(SMALL | options))).eval()


def prompt_ids(batch, length, seed=0):
    """Random token ids that are none of the special ones."""
    return torch.randint(3, 97, (batch, length), generator=torch.Generator().manual_seed(seed))


def left_padded(lengths, seed=0):
    """A batch whose rows have these lengths, and its mask."""
    ids = prompt_ids(len(lengths), max(lengths), seed)
    mask = torch.tensor([[0] * (max(lengths) - n) + [1] * n for n in lengths])
    return ids.masked_fill(mask == 0, 0), mask


@torch.no_grad()
def assert_greedy(model, tokens, prompt_length, attention_mask=None):
    """Each new token has the largest of the model's logits after the text before it, or lacks no more than rounding.

    Two loops round differently, so in half precision they may part at a near tie, and are then no longer comparable
    token by token. This judges the text that was really written, by the measure of ``decodeloop.verify``.
    """
    mask = torch.ones_like(tokens)
    if attention_mask is not None:
        mask[:, :prompt_length] = attention_mask
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    logits = model(tokens, attention_mask=mask, position_ids=positions).logits[:, prompt_length - 1 : -1].double()
    lost = logits.amax(-1) - logits.gather(-1, tokens[:, prompt_length:, None])[..., 0]
    rounding = 32 * torch.finfo(model.dtype).eps * logits.abs().amax(-1)
    assert (lost <= rounding).all(), f"up to {(lost / rounding).max():.1f} times of what rounding explains"
