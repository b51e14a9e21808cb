"""What the exceptions of aiokafka, TLS and sockets mean for a person: the one place where they become ours.

Nothing of it ends a mapping: what a person must mend (a password, a certificate, an ACL) is `permanent`, tried again slowly, and heals by
itself once it is mended. No secret is ever in a text.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterator

from aiokafka import errors as kafka

from connectors.kafka.options import KafkaOptions
from poller.errors import NotConnected


class TokenRefused(kafka.AuthenticationFailedError):  # type: ignore[misc]
    """Raised by what fetches tokens: there is none. Of aiokafka's family, for an error of any other would end the task in which aiokafka
    looks after its metadata, and everything that waits for it would wait for ever."""

    def __init__(self, text: str, *, permanent: bool) -> None:
        super().__init__(text)
        self.text = text
        self.permanent = permanent


def place_of(options: KafkaOptions, server: str | None = None) -> str:
    """Where it happened, for a person."""
    what = "topic" if len(options.names) == 1 else "topics"
    return f"Kafka {what} {', '.join(options.names)} at {server or ', '.join(options.bootstrap_servers)}"


def refused(error: BaseException, place: str, options: KafkaOptions | None = None) -> NotConnected:
    """What `error` means: where, what and what to do. With `options`, what they may have to do with it, too."""
    if isinstance(error, NotConnected):
        return error
    for cause in _causes(error):
        found = _login(cause, options) or _tls(cause, options) or _permission(cause) or _group(cause)
        if found is not None:
            return NotConnected(_redacted(f"{place}: {found}", options), permanent=_lasting(cause))
    text = next((text for cause in _causes(error) if (text := _line(cause)) is not None), None)
    if text is None:
        text = _closed(error, options) if any(map(_is_closed, _causes(error))) else f"{type(error).__name__}: {_words(error)}"
    return NotConnected(_redacted(f"{place}: {text}", options))


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error, and what it came from: aiokafka wraps what broke a connection."""
    seen = set[int]()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__  # type: ignore[assignment]


def _lasting(error: BaseException) -> bool:
    return error.permanent if isinstance(error, TokenRefused) else True


_LOGINS = {
    "PLAIN": "check sasl.username and sasl.password",
    "SCRAM-SHA-256": "check sasl.username and sasl.password, and that the user has a password for this very mechanism",
    "SCRAM-SHA-512": "check sasl.username and sasl.password, and that the user has a password for this very mechanism",
    "OAUTHBEARER": "check that the broker trusts who issues the token, and its scope and audience",
    "AWS_MSK_IAM": "check that the credentials allow kafka-cluster:Connect on this cluster",
}


def _login(error: BaseException, options: KafkaOptions | None) -> str | None:
    """SASL."""
    sasl = None if options is None else options.sasl
    mechanism = "" if sasl is None else sasl.mechanism
    match error:
        case TokenRefused():
            return f"no token to log in with: {error.text}"
        case kafka.SaslAuthenticationFailed() | kafka.AuthenticationFailedError():
            who = f" as {sasl.username}" if sasl is not None and sasl.username is not None else ""
            check = _LOGINS.get(mechanism, "check sasl")
            return f"login refused ({mechanism or 'SASL'}{who}): {_words(error)}; {check}"
        case kafka.UnsupportedSaslMechanismError() | kafka.AuthenticationMethodNotSupported():
            return f"the broker takes no login by {mechanism or 'this mechanism'} on this port; set sasl.mechanism to one that it takes"
        case kafka.IllegalSaslStateError():
            return "the broker takes no login at all on this port; leave sasl out, or use the port that takes one"
    return None


_OURS_REFUSED = {
    "UNKNOWN_CA",
    "BAD_CERTIFICATE",
    "UNSUPPORTED_CERTIFICATE",
    "CERTIFICATE_UNKNOWN",
    "CERTIFICATE_EXPIRED",
    "CERTIFICATE_REVOKED",
}


def _tls(error: BaseException, options: KafkaOptions | None) -> str | None:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the broker's certificate is not trusted ({error.verify_message}); {_trust(error, options)}"
    if not isinstance(error, ssl.SSLError) or isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return None  # a line that broke is no opinion about certificates
    alert = (error.reason or "").partition("_ALERT_")[2]
    own = options is not None and options.tls is not None and options.tls.certificate is not None
    if alert == "CERTIFICATE_REQUIRED" or (alert in {"BAD_CERTIFICATE", "HANDSHAKE_FAILURE"} and not own):
        return f"the broker asks for a certificate of ours ({error.reason}); set tls.certificate and tls.key"
    if alert in _OURS_REFUSED:
        words = alert.replace("_", " ").lower()
        return f"the broker does not accept our certificate ({words}); check tls.certificate, and which authorities the broker trusts"
    if error.reason in {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "UNKNOWN_PROTOCOL", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG"}:
        return f"what answers speaks no TLS on this port ({error.reason}); use the port that does, or leave tls out"
    return f"TLS failed ({error.reason or _words(error)})"


def _trust(error: ssl.SSLCertVerificationError, options: KafkaOptions | None) -> str:
    if "ostname" in error.verify_message or "IP address" in error.verify_message:
        return "use a name in bootstrap_servers that the certificate holds, or set tls.verify_hostname = false"
    if "expired" in error.verify_message or "not yet valid" in error.verify_message:
        return "it must be renewed at the broker (or this machine's clock is wrong)"
    ca = None if options is None or options.tls is None else options.tls.ca
    return "set tls.ca to the authority that signed it" if ca is None else "tls.ca is not the authority that signed it"


def _permission(error: BaseException) -> str | None:
    named = ", ".join(str(each) for arg in error.args for each in (sorted(arg) if isinstance(arg, set | frozenset | list) else [arg]))
    match error:
        case kafka.TopicAuthorizationFailedError():
            return f"not allowed: topic {named or '(see above)'}; grant this login READ and DESCRIBE on it"
        case kafka.GroupAuthorizationFailedError():
            return f"not allowed: consumer group {named or '(the source option `group`)'}; grant this login READ on it"
        case kafka.ClusterAuthorizationFailedError():
            return "not allowed: the broker refuses this login what it asked of the cluster; grant it DESCRIBE on the cluster"
        case kafka.UnknownTopicOrPartitionError():
            return "there is no such topic or partition, or this login may not see it; check the name, create it, or grant DESCRIBE"
    return None


def _group(error: BaseException) -> str | None:
    match error:
        case kafka.InvalidSessionTimeoutError():
            return "the broker does not allow this session_timeout (its group.min.session.timeout.ms and group.max.session.timeout.ms)"
        case kafka.InconsistentGroupProtocolError():
            return "the group's other members share partitions in a way that we do not know; use a group of its own, or stop them"
        case kafka.InvalidGroupIdError():
            return "the broker does not allow this name of a group; change the source option `group`"
        case kafka.UnsupportedVersionError() | kafka.IncompatibleBrokerVersion() | kafka.UnrecognizedBrokerVersion():
            return f"the broker is too old or too new: {_words(error)}"
    return None


_HUNG_UP = (ConnectionResetError, BrokenPipeError, asyncio.IncompleteReadError, ssl.SSLEOFError, ssl.SSLZeroReturnError)
"""Who closed the line, and does not say why."""


def _line(error: BaseException) -> str | None:
    """The line to the broker; tried again soon."""
    match error:
        case socket.gaierror():
            return f"the name of the host leads nowhere ({error.strerror})"
        case ConnectionRefusedError():
            return "nobody listens there (connection refused)"
        case asyncio.TimeoutError() | kafka.RequestTimedOutError() | kafka.KafkaTimeoutError():
            return "no answer in time"
        case OSError() if not isinstance(error, _HUNG_UP):
            return f"cannot be reached ({error.strerror or _words(error)})"
    return None


def _is_closed(error: BaseException) -> bool:
    if isinstance(error, kafka.KafkaConnectionError):
        return any(word in str(error) for word in (" closed", " broken"))
    return isinstance(error, _HUNG_UP)


def _closed(error: BaseException, options: KafkaOptions | None) -> str:
    """A broker that does not like what it reads closes the line without a word; what it may not like follows from what we said."""
    closed = "the broker closed the connection"
    if options is None:
        return closed
    if options.encrypted is not None and isinstance(error, OSError):
        # aiokafka's own errors come only once TLS stands.
        return f"{closed} while TLS was begun; perhaps it speaks none on this port (then leave tls out)"
    if options.encrypted is None:
        other = "a login (then set sasl)" if options.sasl is None else "no login"
        return f"{closed}; perhaps it wants TLS on this port (then set tls), or {other}"
    if options.sasl is None:
        return f"{closed}; perhaps it wants a login on this port (then set sasl)"
    return closed


def _words(error: BaseException) -> str:
    """The error's own text, without aiokafka's numbers and names before it."""
    text = str(error)
    _, found, rest = text.partition(f"{type(error).__name__}: ")
    return (rest if found else text).strip() or type(error).__name__


def _redacted(text: str, options: KafkaOptions | None) -> str:
    """Brokers and token endpoints may repeat what they were told."""
    sasl = None if options is None else options.sasl
    if sasl is not None:
        for name in ("password", "token", "client_secret"):
            value = getattr(sasl, name)
            if value:
                text = text.replace(str(value), f"<sasl.{name}>")
    return text
