"""A blocking backend on one in memory."""

from __future__ import annotations

ID = "{fp:7}:550e8400-e29b-41d4-a716-%012d"
