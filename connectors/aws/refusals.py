"""What the error codes of AWS's streams mean for who reads them. Pure.

Sources: the "Errors" of each operation in the API references of Kinesis Data Streams and DynamoDB Streams, and their "Common errors".
"""

from __future__ import annotations

from dataclasses import dataclass

from connectors.sharded.shards import Expired, Gone, Refused, Throttled, Trimmed
from poller.errors import NotConnected, SourceError

_EXPIRED = {"ExpiredIteratorException", "ExpiredNextTokenException"}
THROTTLED = {
    "KMSThrottlingException", "LimitExceededException", "ProvisionedThroughputExceededException", "RequestLimitExceeded", "SlowDown",
    "Throttling", "ThrottlingException",
}  # fmt: skip
_FORBIDDEN = {
    "AccessDenied", "AccessDeniedException", "ExpiredToken", "ExpiredTokenException", "IncompleteSignature", "InvalidClientTokenId",
    "InvalidSignatureException", "KMSAccessDeniedException", "MissingAuthenticationToken", "MissingAuthenticationTokenException",
    "NotAuthorizedException", "OptInRequired", "SignatureDoesNotMatch", "UnrecognizedClientException",
}  # fmt: skip
_KEYS = {"KMSDisabledException", "KMSInvalidStateException", "KMSNotFoundException", "KMSOptInRequired"}
_WRONG = {"InvalidArgumentException", "ValidationException", "ValidationError", "SerializationException", "InvalidParameterValue"}
_IMPOSSIBLE = {"UnknownOperationException", "InvalidAction"}


class WrongCall(NotConnected):
    """Raised when the service takes what it was asked for as wrong."""


@dataclass(frozen=True, slots=True)
class Place:
    """What is asked, for who reads of it: "Kinesis stream orders (region eu-west-1, AWS)"; `allowed`: the permissions it needs."""

    name: str
    allowed: str


def refusal(place: Place, operation: str, code: str, text: str) -> Refused:
    """What this answer means. Raises NotConnected, SourceError."""
    told = f"{place.name}: {operation}: {code}: {text}" if text else f"{place.name}: {operation}: {code}"
    if code in _EXPIRED:
        return Expired(told)
    if code in THROTTLED:
        return Throttled(told)
    if code == "TrimmedDataAccessException":
        return Trimmed(told)
    if code == "ResourceNotFoundException":
        return Gone(told)
    if code == "ResourceInUseException":
        # A consumer's subscription to a shard lasts five seconds past its end; a stream that changes is busy for about as long.
        return Throttled(told, 5.0)
    if code in _FORBIDDEN:
        advice = f"check the credentials, that they allow {place.allowed}, and this machine's clock"
        raise NotConnected(f"{place.name}: {operation} was refused ({code}: {text}); {advice}", permanent=True)
    if code in _KEYS:
        raise NotConnected(f"{told}; check the key that encrypts the stream", permanent=True)
    if code in _WRONG:
        raise WrongCall(told, permanent=True)
    if code in _IMPOSSIBLE:
        raise SourceError(f"{told}; what answers cannot do that: check `endpoint`")
    raise NotConnected(told)
