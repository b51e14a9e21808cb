"""A broker with a listener for every way to log in, and the certificates and passwords to do so, or to be refused."""

from __future__ import annotations

import base64
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trustme
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from tests.servers.kafka.broker import Kafka, dead_after, node, quiet_port, replication

USER, PASSWORD = "alice", "alice-secret"
KEY_PASSWORD = "key-secret"
AUDIENCE, ISSUER = "kafka", "https://issuer.example.com"
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER")


@dataclass(frozen=True)
class Identity:
    """A client's certificate: files in PEM. The second key is the first, encrypted with KEY_PASSWORD."""

    certificate: Path
    key: Path
    encrypted_key: Path


class Issuer:
    """Signs tokens (JWT, RS256); the broker believes one issuer and knows it by its public key."""

    def __init__(self) -> None:
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)

    def token(self, subject: str = USER, seconds: float = 300, audience: str = AUDIENCE) -> str:
        """Good for so many seconds from now; less than 0: it has expired."""
        now = int(time.time())
        header = {"alg": "RS256", "typ": "JWT", "kid": "1"}
        claims = {"sub": subject, "iss": ISSUER, "aud": audience, "iat": now - 60, "exp": now + int(seconds), "scope": ["kafka"]}
        text = f"{_json(header)}.{_json(claims)}"
        return f"{text}.{_base64(self._key.sign(text.encode(), padding.PKCS1v15(), hashes.SHA256()))}"

    def keys(self) -> str:
        """The public one, as a JSON Web Key Set."""
        numbers = self._key.public_key().public_numbers()
        parts = {"n": numbers.n, "e": numbers.e}
        key = {name: _base64(number.to_bytes((number.bit_length() + 7) // 8, "big")) for name, number in parts.items()}
        return json.dumps({"keys": [{"kty": "RSA", "kid": "1", "use": "sig", "alg": "RS256", **key}]})


def _json(value: dict[str, Any]) -> str:
    return _base64(json.dumps(value).encode())


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class KafkaSecure:
    """USER and PASSWORD are good for PLAIN and SCRAM. The certificate of the broker names 127.0.0.1 and not `localhost`."""

    def __init__(self, folder: Path) -> None:
        """Formatted but not started."""
        plain, sasl, ssl = quiet_port(), quiet_port(), quiet_port()
        self.sasl = f"127.0.0.1:{sasl}"
        """SASL_SSL with all MECHANISMS."""
        self.ssl = f"127.0.0.1:{ssl}"
        """SSL; asks for a certificate that `ca` signed."""
        authority, stranger = trustme.CA(), trustme.CA()
        self.ca, self.wrong_ca = folder / "ca.pem", folder / "wrong-ca.pem"
        authority.cert_pem.write_to_path(self.ca)
        stranger.cert_pem.write_to_path(self.wrong_ca)
        # A certificate with nothing but a common name gets an empty list of others, which Java refuses to read.
        self.client = _identity(authority.issue_cert(f"{USER}@example.com", common_name=USER), folder, "client")
        self.stranger = _identity(stranger.issue_cert(f"{USER}@example.com", common_name=USER), folder, "stranger")
        """Signed by `wrong_ca`."""
        self.issuer, self.wrong_issuer = Issuer(), Issuer()
        (folder / "jwks.json").write_text(self.issuer.keys())
        own = authority.issue_cert("127.0.0.1")
        key = _key(own, NoEncryption())
        (folder / "broker.pem").write_bytes(key + b"".join(blob.bytes() for blob in own.cert_chain_pems))
        listeners = {"SASL": ("SASL_SSL", sasl), "SSL": ("SSL", ssl)}
        settings = {**node(1, plain, [quiet_port()], listeners), **replication(1, 1), **dead_after(1.5), **_logins(folder)}
        allowed = f"-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls={(folder / 'jwks.json').as_uri()}"
        self.broker = Kafka(folder, plain, settings, [allowed])
        self.bootstrap = self.broker.bootstrap
        """Without a login."""
        scram = [f"{each}=[name={USER},password={PASSWORD}]" for each in MECHANISMS if each.startswith("SCRAM")]
        self.broker.format(*(word for each in scram for word in ("--add-scram", each)))


def _logins(folder: Path) -> dict[str, str]:
    modules = "org.apache.kafka.common.security"
    sasl = "listener.name.sasl"
    return {
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": f"{folder}/broker.pem",
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": f"{folder}/ca.pem",
        "listener.name.ssl.ssl.client.auth": "required",
        "sasl.enabled.mechanisms": ",".join(MECHANISMS),
        f"{sasl}.plain.sasl.jaas.config": f'{modules}.plain.PlainLoginModule required user_{USER}="{PASSWORD}";',
        f"{sasl}.scram-sha-256.sasl.jaas.config": f"{modules}.scram.ScramLoginModule required;",
        f"{sasl}.scram-sha-512.sasl.jaas.config": f"{modules}.scram.ScramLoginModule required;",
        f"{sasl}.oauthbearer.sasl.jaas.config": f"{modules}.oauthbearer.OAuthBearerLoginModule required;",
        f"{sasl}.oauthbearer.sasl.server.callback.handler.class": f"{modules}.oauthbearer.OAuthBearerValidatorCallbackHandler",
        f"{sasl}.oauthbearer.sasl.oauthbearer.jwks.endpoint.url": (folder / "jwks.json").as_uri(),
        f"{sasl}.oauthbearer.sasl.oauthbearer.expected.audience": AUDIENCE,
        f"{sasl}.oauthbearer.sasl.oauthbearer.expected.issuer": ISSUER,
        # Refusals are told at once: nobody guesses passwords here.
        "connection.failed.authentication.delay.ms": "0",
    }


def _identity(certificate: trustme.LeafCert, folder: Path, name: str) -> Identity:
    found = Identity(folder / f"{name}.crt", folder / f"{name}.key", folder / f"{name}-encrypted.key")
    found.certificate.write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
    found.key.write_bytes(_key(certificate, NoEncryption()))
    found.encrypted_key.write_bytes(_key(certificate, BestAvailableEncryption(KEY_PASSWORD.encode())))
    return found


def _key(certificate: trustme.LeafCert, encryption: KeySerializationEncryption) -> bytes:
    """In PKCS #8, the only form that Java reads."""
    return load_pem_private_key(certificate.private_key_pem.bytes(), None).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
