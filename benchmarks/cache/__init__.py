"""What the score cache saves, and what it costs when its Redis is in trouble."""
