"""AWS credentials as every connector to AWS finds them: botocore's own chain, a profile, or a role that is assumed with them; and what it
means when they, the region or the service are not to be had.

Imported only when a source opens: the vendor's library takes 300 ms to import.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from aiobotocore.credentials import AioAssumeRoleCredentialFetcher, AioCredentialResolver, AioDeferredRefreshableCredentials
from aiobotocore.session import AioSession
from botocore import exceptions

from poller.errors import NotConnected, SourceError

NO_CREDENTIALS = (
    exceptions.NoCredentialsError,
    exceptions.PartialCredentialsError,
    exceptions.CredentialRetrievalError,
    exceptions.ProfileNotFound,
    exceptions.ConfigParseError,
    exceptions.NoAuthTokenError,
    exceptions.TokenRetrievalError,
    exceptions.SSOError,
    exceptions.LoginError,
    exceptions.InvalidConfigError,
)
"""What botocore raises where a person must set up credentials."""

_NO_PLACE = (
    exceptions.NoRegionError,
    exceptions.InvalidRegionError,
    exceptions.UnknownEndpointError,
    exceptions.EndpointProviderError,
    exceptions.InvalidProxiesConfigError,
)


@contextmanager
def mapped(place: str) -> Iterator[None]:
    """Exceptions of botocore become ours, but for answers with an error code (ClientError): those are the service's own to explain.

    `place` names what is asked, region and endpoint for the person who reads the message. Raises NotConnected, SourceError.
    """
    try:
        yield
    except NO_CREDENTIALS as error:
        text = f"{place}: no usable credentials ({error}); set AWS_PROFILE or AWS_ACCESS_KEY_ID, or `profile` of the source"
        raise NotConnected(text, permanent=True) from error
    except _NO_PLACE as error:
        raise NotConnected(f"{place}: {error}; set AWS_REGION, or `region` of the source", permanent=True) from error
    except (exceptions.ParamValidationError, exceptions.ValidationError) as error:
        raise SourceError(f"{place}: {error}") from error
    except (exceptions.BotoCoreError, OSError, ValueError) as error:
        # ValueError: an `endpoint` that is no URL, an answer that is no JSON (a proxy's page).
        raise NotConnected(f"{place}: {type(error).__name__}: {error}") from error


async def session_for(profile: str | None, role: str | None, region: str | None) -> AioSession:
    """A session with the credentials of `profile`, or of `role` assumed with them. Raises botocore's exceptions."""
    session = AioSession(profile=profile)
    return session if role is None else await _assuming(session, role, region)


class _RoleProvider:
    """Credentials of a role, got from STS when they are first used, and again before they expire."""

    METHOD = "assume-role"
    CANONICAL_NAME = None

    def __init__(self, fetcher: AioAssumeRoleCredentialFetcher) -> None:
        self._fetcher = fetcher

    async def load(self) -> AioDeferredRefreshableCredentials:
        return AioDeferredRefreshableCredentials(refresh_using=self._fetcher.fetch_credentials, method=self.METHOD)


async def _assuming(base: AioSession, role: str, region: str | None) -> AioSession:
    """A session whose credentials are those of `role`, assumed with the credentials of `base`."""
    source = await base.get_credentials()
    if source is None:
        raise exceptions.NoCredentialsError

    def create(service: str, **options: Any) -> Any:
        return base.create_client(service, region_name=region, **options)

    fetcher = AioAssumeRoleCredentialFetcher(create, source, role, extra_args={"RoleSessionName": "poller"})
    session = AioSession()
    session.register_component("credential_provider", AioCredentialResolver(providers=[_RoleProvider(fetcher)]))
    return session
