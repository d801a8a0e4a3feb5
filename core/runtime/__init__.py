"""Sessions: what all backends share of them, the registry of backends, worker processes, cores."""
