"""The tokenizer: byte-level BPE that cuts lines where people's prompts end.

GPT-2's pre-tokenizer merges a newline with the spaces after it and the last of these spaces with the next word, so a
prompt that ends in a newline, or after the indentation, is tokenised as no training text ever was. Here a newline is a
token by itself, a line's indentation is cut from the word after it, and so are triple quotes: at each of these places,
the tokens of a text's beginning are the beginning of the text's tokens.
"""

from collections.abc import Iterable

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

EOS, PAD = "<|endoftext|>", "<|pad|>"
WORDS = r" ?\p{L}+| ?\p{N}|_| ?[^\s\p{L}\p{N}_]+|\s+(?!\S)|\s+"


def pre_tokenizer() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"[\r\n]"), "isolated"),
            pre_tokenizers.Split(Regex(r"^[ \t]+"), "isolated"),
            pre_tokenizers.Split(Regex("\"\"\"|'''"), "isolated"),
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def train_tokenizer(texts: Iterable[str], vocab_size: int, max_length: int) -> PreTrainedTokenizerFast:
    """Train a vocabulary of exactly `vocab_size`, with all 256 bytes and two special tokens in it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer()
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[
            AddedToken(EOS, special=True, normalized=False),
            AddedToken(PAD, special=True, normalized=False),
        ],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() != vocab_size:
        raise ValueError(f"the texts give {tokenizer.get_vocab_size()} tokens, not {vocab_size}: more text is needed")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=EOS,
        pad_token=PAD,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=max_length,
        model_input_names=["input_ids", "attention_mask"],
    )
