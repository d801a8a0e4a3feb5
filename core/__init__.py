"""Everything that decides a result, computed once, without any deep-learning framework."""
