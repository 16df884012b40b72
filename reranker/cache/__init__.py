"""The score cache: what makes two documents' scores the same, where they are kept, who waits for whom."""
