"""TLS to brokers: whom we trust, and who we are. Reads files and blocks: call it in a thread."""

from __future__ import annotations

import ssl
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from connectors.kafka.files import current, pem, text
from connectors.kafka.options import Tls
from poller.errors import NotConnected


def tls_context(tls: Tls, base: Path) -> ssl.SSLContext:
    """Raises NotConnected that names the file: not SourceError, for a certificate that is being renewed is back in a moment."""
    context = ssl.create_default_context(cadata=None if tls.ca is None else _authorities(tls.ca, base))
    context.check_hostname = tls.verify_hostname
    if tls.certificate is not None:
        _present(context, tls, base)
    return context


def trusting(tls: Tls | None, base: Path) -> ssl.SSLContext:
    """For who is no broker (a token endpoint): the system's authorities, and `tls.ca` besides."""
    context = ssl.create_default_context()
    if tls is not None and tls.ca is not None:
        context.load_verify_locations(cadata=_authorities(tls.ca, base))
    return context


def _authorities(ca: str, base: Path) -> str:
    place = pem(ca, base)
    certificates = text("tls.ca", place) if isinstance(place, Path) else place
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=certificates)
    except (ssl.SSLError, ValueError):
        raise NotConnected(f"tls.ca: {_shown(place)} holds no certificate in PEM form", permanent=True) from None
    return certificates


def _present(context: ssl.SSLContext, tls: Tls, base: Path) -> None:
    """What we show a broker that asks who we are."""
    assert tls.certificate is not None
    certificate = pem(tls.certificate, base)
    key = None if tls.key is None else pem(tls.key, base)
    held = text("tls.certificate", certificate) if isinstance(certificate, Path) else certificate
    locked = held if key is None else text("tls.key", key) if isinstance(key, Path) else key
    # Never None: OpenSSL would ask at the terminal, and wait.
    password = "" if tls.key_password is None else current("tls.key_password", tls.key_password, base)
    with ExitStack() as files:
        paths = [None if place is None else files.enter_context(_file(place)) for place in (certificate, key)]
        try:
            context.load_cert_chain(paths[0] or "", paths[1], password)
        except (ssl.SSLError, ValueError) as error:
            reason = _unusable(error, held, locked, tls.key_password is not None)
            raise NotConnected(f"{_shown(certificate)} and {_shown(key or certificate)}: {reason}", permanent=True) from None
        except OSError as error:
            raise NotConnected(f"tls.certificate: {_shown(certificate)} cannot be read: {error.strerror}", permanent=True) from None


def _unusable(error: Exception, certificate: str, key: str, password: bool) -> str:
    """OpenSSL says "PEM lib" to almost everything."""
    if "-----BEGIN CERTIFICATE" not in certificate:
        return "tls.certificate holds no certificate in PEM form"
    if "PRIVATE KEY-----" not in key:
        return "there is no private key in PEM form; set tls.key, or put the key into the certificate's file"
    if isinstance(error, ssl.SSLError) and error.reason == "KEY_VALUES_MISMATCH":
        return "the private key is not the certificate's"
    if "ENCRYPTED" in key:
        return "tls.key_password does not open the private key" if password else "the private key has a password; set tls.key_password"
    return "the private key or the certificate cannot be used"


def _shown(place: Path | str) -> str:
    return str(place) if isinstance(place, Path) else "the text given"


@contextmanager
def _file(place: Path | str) -> Iterator[str]:
    """A path to it: OpenSSL reads a key from files only. A file made for that is the user's alone, and gone at once."""
    if isinstance(place, Path):
        yield str(place)
        return
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".pem") as file:
        file.write(place)
        file.flush()
        yield file.name
