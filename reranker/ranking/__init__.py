"""One request, from its lists to its rankings."""
