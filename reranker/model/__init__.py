"""What a checkpoint is: its family, prompt, limits, adapter, identity and start-up check."""
