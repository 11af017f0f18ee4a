"""What people do with completions, on the contract alone: works with any backend."""
