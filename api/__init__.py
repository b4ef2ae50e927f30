"""HTTP: translates between the contract and the rooms below, and does nothing else."""
