"""Amazon MSK with IAM: a token that is signed here, with the credentials that botocore finds. Imported only when a source logs in so.

Source: AWS's own signers for MSK (aws-msk-iam-sasl-signer-*): the token is a presigned GET of `kafka-cluster:Connect`, in URL-safe base64
without padding.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable

from botocore import exceptions

from connectors.aws.credentials import NO_CREDENTIALS, session_for
from connectors.aws.sigv4 import Credentials, presigned, quoted
from connectors.kafka.options import KafkaOptions, msk_region
from connectors.kafka.refusals import TokenRefused
from connectors.kafka.tokens import Fetch, Token

TOKEN_SECONDS = 900
"""How long a token is good for: the most that MSK takes."""

_PASSING = {"Throttling", "ThrottlingException", "RequestLimitExceeded", "InternalFailure", "InternalError", "ServiceUnavailable"}


def msk_token(region: str, credentials: Credentials, now: float, agent: str = "poller") -> str:
    """What MSK takes as a bearer token, for `TOKEN_SECONDS` from `now`."""
    host = f"kafka.{region}.amazonaws.com"
    url = presigned(host, "kafka-cluster", region, credentials, {"Action": "kafka-cluster:Connect"}, now, TOKEN_SECONDS)
    # Who asks is said outside the signature, as AWS's own signers do.
    return base64.urlsafe_b64encode(f"{url}&User-Agent={quoted(agent)}".encode()).rstrip(b"=").decode()


def from_iam(options: KafkaOptions, clock: Callable[[], float] = time.time) -> Fetch:
    """Tokens of MSK. The session is made once, so that a role's credentials are asked for again only when they expire."""
    sasl = options.sasl
    assert sasl is not None
    sessions = list[object]()

    async def signed() -> Token:
        region = sasl.region or next((found for server in options.bootstrap_servers if (found := msk_region(server))), None)
        if not sessions:
            sessions.append(await session_for(sasl.profile, sasl.role_arn, region))
        session = sessions[0]
        region = region or session.get_config_variable("region")  # type: ignore[attr-defined]
        if region is None:
            raise TokenRefused("the cluster's region is not known; set sasl.region, or AWS_REGION", permanent=True)
        found = await session.get_credentials()  # type: ignore[attr-defined]
        if found is None:
            raise exceptions.NoCredentialsError
        frozen = await found.get_frozen_credentials()
        now = clock()
        return Token(msk_token(region, Credentials(frozen.access_key, frozen.secret_key, frozen.token), now), now + TOKEN_SECONDS)

    async def fetch() -> Token:
        try:
            return await signed()
        except exceptions.ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            text = f"{error.operation_name} was refused ({code}: {error.response.get('Error', {}).get('Message', '')})"
            raise TokenRefused(text, permanent=code not in _PASSING) from error
        except NO_CREDENTIALS as error:
            text = f"no usable credentials ({error}); set AWS_PROFILE or AWS_ACCESS_KEY_ID, or sasl.profile"
            raise TokenRefused(text, permanent=True) from error
        except (exceptions.BotoCoreError, OSError, ValueError) as error:
            raise TokenRefused(f"{type(error).__name__}: {error}", permanent=False) from error

    return fetch
