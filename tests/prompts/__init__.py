"""Our prompts, id for id, against the model card's code; with the real Qwen3 tokenizer and the demo model's."""
