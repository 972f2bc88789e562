"""The model: phi's architecture, small; how it is written to and read from a folder."""

import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoTokenizer, GenerationConfig, PhiConfig, PhiForCausalLM, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

disable_progress_bar()
LARGEST_FOLDER = 12_000_000  # bytes


@dataclass(frozen=True)
class Shape:
    vocab_size: int = 3072
    hidden_size: int = 256
    intermediate_size: int = 1024
    layers: int = 6
    heads: int = 4  # of 64, as in phi
    positions: int = 2048


def make_model(shape: Shape, tokenizer: PreTrainedTokenizerFast) -> PhiForCausalLM:
    """A new model. What is added to the residual stream starts smaller, the more layers there are (as in GPT-2)."""
    config = PhiConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        hidden_act="gelu_new",
        max_position_embeddings=shape.positions,
        partial_rotary_factor=0.5,
        tie_word_embeddings=True,
        qk_layernorm=False,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = PhiForCausalLM(config)
    with torch.no_grad():
        for layer in model.model.layers:
            for projection in (layer.self_attn.dense, layer.mlp.fc2):
                projection.weight.mul_((2 * shape.layers) ** -0.5)
    return model


def save_folder(model: PhiForCausalLM, tokenizer: PreTrainedTokenizerFast, files: dict[str, str], folder: Path) -> None:
    """Write weights in float16, tokenizer and text files to a folder beside the final one, check it, then rename it."""
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".bundled-", dir=folder.parent))
    try:
        half = PhiForCausalLM(model.config)
        half.load_state_dict(model.state_dict())
        half = half.half().eval()
        half.tie_weights()
        tokens = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
        half.generation_config = GenerationConfig(**tokens, bos_token_id=tokenizer.eos_token_id, do_sample=False)
        half.save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)
        name_tokenizer_class(scratch / "tokenizer_config.json")
        for name, text in files.items():
            (scratch / name).write_text(text, encoding="utf-8")
        check_folder(half, tokenizer, scratch)
        scratch.chmod(0o755)
        for path in scratch.iterdir():
            path.chmod(0o644)
        if folder.exists():
            shutil.rmtree(folder)
        scratch.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def name_tokenizer_class(path: Path) -> None:
    """Name the class by the name that every version of transformers knows; version 5 writes its own new one."""
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    settings.pop("backend", None)
    path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def load_folder(folder: Path, dtype: torch.dtype = torch.float32, device: str = "cpu"):
    """The model, ready to generate, and its tokenizer; nothing is looked up on a network."""
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    model = PhiForCausalLM.from_pretrained(folder, local_files_only=True, dtype=dtype, trust_remote_code=False)
    return model.to(device).eval(), tokenizer


def check_folder(half: PhiForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """What is read back must be what was written, finite in float16, and small enough."""
    again, words = load_folder(folder)
    text = 'def f(n):\n    """\n    Añb 😀\tx\r\n    """\n    return 42\n'
    ids = words(text).input_ids
    assert ids == tokenizer(text).input_ids, "the tokenizer read back splits text otherwise"
    assert words.decode(ids) == text, "the tokenizer does not give its text back"
    written, read = half.state_dict(), again.state_dict()
    assert written.keys() == read.keys(), f"other tensors were read back: {written.keys() ^ read.keys()}"
    for name, tensor in written.items():
        assert torch.isfinite(tensor).all(), f"{name} does not fit in float16"
        assert torch.equal(tensor.float().cpu(), read[name]), f"{name} was read back with other values"
    assert again.lm_head.weight is again.model.embed_tokens.weight, "the embeddings are no longer tied"
    with torch.no_grad():
        batch = torch.tensor([ids])
        exact, rounded = again(batch).logits, half.cpu()(batch).logits
    assert torch.isfinite(rounded).all(), "a float16 forward pass overflows"
    error, largest = (exact - rounded.float()).abs().max().item(), exact.abs().max().item()
    assert error < 0.05 * largest, f"float16 logits are {error:.3f} away from float32's, of at most {largest:.1f}"
    size = sum(path.stat().st_size for path in folder.iterdir())
    assert size <= LARGEST_FOLDER, f"the folder takes {size} bytes, more than {LARGEST_FOLDER}"
