"""The adapters: ``memory``, ``valkey``, ``postgres``. Each is imported on its own, with its own driver."""
