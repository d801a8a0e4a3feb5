"""The contract that every backend fulfils, the registry, worker processes, cores."""
