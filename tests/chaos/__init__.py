"""A seeded harness that breaks things while writers write, and compares what was committed with what was delivered."""
