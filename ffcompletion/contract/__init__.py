"""What backend and consumer agree on: protocols and values. No I/O, no driver."""
