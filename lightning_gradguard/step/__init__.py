"""ACT: what remedies act through: the pending step, learning-rate factor, snapshots, the search for a remedy."""
