"""Training as data and decisions: the plan of an epoch, the loop, selection, state, checkpoint, run folder."""
