"""`make demo`: a recurring job, observed, learned from, checkpointed, killed and resumed."""
