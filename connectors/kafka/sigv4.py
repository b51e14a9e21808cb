"""The token that Amazon MSK takes for a signature. Pure: the time is an argument.

Source: AWS's own signers for MSK (aws-msk-iam-sasl-signer-*): the token is a presigned GET of `kafka-cluster:Connect`, in URL-safe base64
without padding.
"""

from __future__ import annotations

import base64

from connectors.sigv4 import Credentials, presigned, quoted

TOKEN_SECONDS = 900
"""How long a token is good for: the most that MSK takes."""


def msk_token(region: str, credentials: Credentials, now: float, agent: str = "poller") -> str:
    """What MSK takes as a bearer token, for `TOKEN_SECONDS` from `now`."""
    host = f"kafka.{region}.amazonaws.com"
    url = presigned(host, "kafka-cluster", region, credentials, {"Action": "kafka-cluster:Connect"}, now, TOKEN_SECONDS)
    # Who asks is said outside the signature, as AWS's own signers do.
    return base64.urlsafe_b64encode(f"{url}&User-Agent={quoted(agent)}".encode()).rstrip(b"=").decode()
