"""What makes the bundled model: its exercises, tokenizer, training, evaluation and card."""
