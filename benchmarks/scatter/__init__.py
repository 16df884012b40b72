"""What scattering, fair queueing, admission and retries give, measured on a running service; writes one JSON."""
