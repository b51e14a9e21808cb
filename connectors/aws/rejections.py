"""What the error codes of AWS's services mean for who sends something there. Pure.

Sources: the "Errors" of SendMessage, SendMessageBatch, GetQueueUrl, PutRecord, Publish, PutObject, HeadBucket, PutEvents and Invoke in
their API references, and "Common errors".
"""

from __future__ import annotations

import re

from connectors.aws.refusals import THROTTLED, Place
from poller.errors import NotConnected

_MISSING = {
    "404", "AWS.SimpleQueueService.NonExistentQueue", "NoSuchBucket", "NonExistentQueue", "NotFound", "NotFoundException",
    "QueueDoesNotExist", "ResourceNotFoundException",
}  # fmt: skip
_FORBIDDEN = {
    "403", "AccessDenied", "AccessDeniedException", "AllAccessDisabled", "AuthorizationError", "AuthorizationErrorException",
    "ExpiredToken", "ExpiredTokenException", "IncompleteSignature", "InvalidAccessKeyId", "InvalidClientTokenId", "InvalidSecurity",
    "InvalidSecurityException", "InvalidSignatureException", "InvalidToken", "MissingAuthenticationToken",
    "MissingAuthenticationTokenException", "NotAuthorizedException", "NotAuthorizedForSourceException", "OptInRequired",
    "RequestExpired", "RequestTimeTooSkewed", "SignatureDoesNotMatch", "UnrecognizedClientException",
}  # fmt: skip
_THROTTLED = THROTTLED | {
    "429", "EC2ThrottledException", "KMS.ThrottlingException", "KmsThrottled", "OverLimit", "RequestThrottled", "RequestThrottledException",
    "Throttled", "ThrottledException", "TooManyRequestsException",
}  # fmt: skip
_LARGE = {"413", "EntityTooLarge", "RequestEntityTooLargeException", "RequestTooLargeException"}
_TROUBLE = {
    "InternalError", "InternalException", "InternalFailure", "RequestTimeout", "ServiceException", "ServiceFailure", "ServiceUnavailable",
}  # fmt: skip
_ELSEWHERE = {"301", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "PermanentRedirect"}
_TELLS_OF_SIZE = re.compile(r"too long|too large|must be (?:shorter|smaller)|over the limit|size .*exceed", re.IGNORECASE)


class Forbidden(NotConnected):
    """Raised when the credentials do not allow it."""


class TooLarge(NotConnected):
    """Raised when the body is larger than the service takes."""


def rejection(place: Place, operation: str, code: str, text: str, status: int = 400) -> NotConnected:
    """What to raise for an answer with this error code, or with an entry that has it; `status` is the answer's (HTTP)."""
    told = f"{place.name}: {operation}: {code}: {text}" if text else f"{place.name}: {operation}: {code}"
    if code in _THROTTLED:
        return NotConnected(f"{told}; fewer requests are asked for", retry_after=1.0)
    if code in _MISSING:
        return NotConnected(f"{told}; there is no such thing: create it, or check its name, region and account", permanent=True)
    if code in _FORBIDDEN:
        advice = f"check the credentials, that they allow {place.allowed}, its own policy, and this machine's clock"
        return Forbidden(f"{told}; {advice}", permanent=True)
    if code.lower().startswith("kms"):
        return NotConnected(f"{told}; check the key that encrypts it, and that the credentials may use it", permanent=True)
    if code in _LARGE or _TELLS_OF_SIZE.search(text):
        return TooLarge(f"{told}; it is larger than the service takes", permanent=True)
    if code in _ELSEWHERE:
        return NotConnected(f"{told}; check `region`: it is in another one", permanent=True)
    # An entry that is refused in a call that was not has no status of its own.
    return NotConnected(told, permanent=code not in _TROUBLE and 400 <= status < 500 and status not in {408, 425, 429})
