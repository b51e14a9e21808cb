"""AWS Lambda's quotas that an invocation is held to. Pure."""

from __future__ import annotations

MAXIMUM_EVENT_BYTES = 6 * 1024 * 1024
"""The largest event in JSON, as Lambda's synchronous payload (aws-esm: Quotas): 6 MB."""

MAXIMUM_STATE_BYTES = 1024 * 1024
"""A larger state, as JSON text, ends its tumbling window early (AWS Lambda guide: 1 MB)."""
