"""Machinery that all adapters share: streams, fan-out, backoff, liveness. No driver."""
