"""Our service beside the engine's own server and other peers, over HTTP, in alternating rounds; one JSON per shape."""
