"""Broken backends, one for each way to break the contract: the conformance kit must find each, and nothing else."""
