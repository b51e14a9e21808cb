"""How we log in to Kafka without a broker: files, tokens, what errors say, and what `check --live` tells."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import ssl
import stat
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
import trustme
from aiokafka import TopicPartition
from aiokafka import errors as kafka
from aiokafka.conn import AIOKafkaConnection
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat, load_pem_private_key

from connectors.kafka import msk
from connectors.kafka.logins import login, reach
from connectors.kafka.options import KafkaOptions, Sasl, Tls
from connectors.kafka.probe import Group, Member, Seen, told
from connectors.kafka.refusals import TokenRefused, place_of, refused
from connectors.kafka.tls import tls_context
from connectors.kafka.tokens import Token, TokenProvider, from_endpoint, from_option
from poller.config.secrets import Secret
from poller.errors import NotConnected
from poller.settings import Finding


def options(**changes: Any) -> KafkaOptions:
    return KafkaOptions(**{"bootstrap_servers": ["broker1:9092"], "topic": "orders", **changes})


def scram(password: str = "s3cret") -> Sasl:
    return Sasl(mechanism="SCRAM-SHA-512", username="alice", password=password)


# --- files ----------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ca.pem, me.pem and me.key (me-locked.key: with the password "pw"), other.key of someone else, and me-both.pem."""
    made = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    mine, other = authority.issue_cert("me.example"), authority.issue_cert("other.example")
    authority.cert_pem.write_to_path(made / "ca.pem")
    mine.cert_chain_pems[0].write_to_path(made / "me.pem")
    mine.private_key_pem.write_to_path(made / "me.key")
    mine.private_key_and_cert_chain_pem.write_to_path(made / "me-both.pem")
    other.private_key_pem.write_to_path(made / "other.key")
    key = load_pem_private_key(mine.private_key_pem.bytes(), None)
    (made / "me-locked.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"pw")))
    (made / "junk.pem").write_text("no certificate")
    (made / "der.pem").write_bytes(b"\x30\x82\xff\xfe")
    return made


@pytest.mark.parametrize(
    "tls",
    [
        Tls(),
        Tls(ca="ca.pem"),
        Tls(ca="ca.pem", certificate="me.pem", key="me.key"),
        Tls(certificate="me-both.pem"),
        Tls(certificate="me.pem", key="me-locked.key", key_password="pw"),
        Tls(certificate="me.pem", key="me.key", key_password="unneeded"),
    ],
)
def test_certificates_that_can_be_used(folder, tls):
    context = tls_context(tls, folder)
    assert context.verify_mode is ssl.CERT_REQUIRED and context.check_hostname
    assert (len(context.get_ca_certs()) == 1) is (tls.ca is not None)


def test_any_host_is_still_no_any_certificate(folder):
    context = tls_context(Tls(ca="ca.pem", verify_hostname=False), folder)
    assert context.verify_mode is ssl.CERT_REQUIRED and not context.check_hostname


@pytest.mark.parametrize(
    ("tls", "says"),
    [
        (Tls(ca="gone.pem"), "tls.ca: {}/gone.pem cannot be read: No such file or directory"),
        (Tls(ca="junk.pem"), "tls.ca: {}/junk.pem holds no certificate in PEM form"),
        (Tls(ca="der.pem"), "tls.ca: {}/der.pem is no text"),
        (Tls(ca="me.key"), "tls.ca: {}/me.key holds no certificate"),
        (Tls(certificate="gone.pem", key="me.key"), "tls.certificate: {}/gone.pem cannot be read"),
        (Tls(certificate="me.pem", key="gone.key"), "tls.key: {}/gone.key cannot be read"),
        (Tls(certificate="junk.pem", key="me.key"), "{0}/junk.pem and {0}/me.key: tls.certificate holds no certificate"),
        (Tls(certificate="me.pem", key="junk.pem"), "there is no private key in PEM form"),
        (Tls(certificate="me.pem"), "there is no private key in PEM form; set tls.key"),
        (Tls(certificate="me.pem", key="other.key"), "{0}/me.pem and {0}/other.key: the private key is not the certificate's"),
        (Tls(certificate="me.pem", key="me-locked.key"), "the private key has a password; set tls.key_password"),
        (Tls(certificate="me.pem", key="me-locked.key", key_password="no"), "tls.key_password does not open the private key"),
    ],
)
async def test_a_certificate_that_cannot_be_used_is_named_and_may_be_mended(folder, tls, says):
    with pytest.raises(NotConnected) as caught:
        await login(options(tls=tls), folder)
    assert caught.value.permanent
    assert str(caught.value).startswith("Kafka topic orders at broker1:9092: ")
    assert says.format(folder) in str(caught.value)


def test_pem_may_come_as_text_and_leaves_no_file_behind(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    modes = list[int]()
    load = ssl.SSLContext.load_cert_chain

    def watched(self, certfile, keyfile, password):
        modes.extend(stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir())
        load(self, certfile, keyfile, password)

    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", watched)
    files = {"ca": "ca.pem", "certificate": "me.pem", "key": "me.key"}
    text: dict[str, Any] = {name: Secret((folder / file).read_text(), "env:X") for name, file in files.items()}
    assert len(tls_context(Tls(**text), Path("/nowhere")).get_ca_certs()) == 1
    assert modes == [0o600, 0o600] and list(tmp_path.iterdir()) == []


def test_a_reference_to_a_file_is_that_file(folder):
    """The configuration has read it once; what counts is what is there now."""
    tls_context(Tls(ca=Secret("what it held once", "file:ca.pem"), certificate=Secret("", "file:me-both.pem")), folder)
    with pytest.raises(NotConnected, match=r"gone\.pem cannot be read"):
        tls_context(Tls(ca=Secret((folder / "ca.pem").read_text(), "file:gone.pem")), folder)


# --- arguments ------------------------------------------------------------------------------------------------------------------------


async def test_arguments_of_a_client(folder):
    assert await login(options(client_id="me"), folder) == {
        "bootstrap_servers": ["broker1:9092"],
        "client_id": "me",
        "security_protocol": "PLAINTEXT",
    }
    found = await login(options(tls=Tls(ca="ca.pem"), sasl=scram()), folder)
    assert isinstance(found.pop("ssl_context"), ssl.SSLContext)
    assert found == {
        "bootstrap_servers": ["broker1:9092"],
        "client_id": "poller",
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": "alice",
        "sasl_plain_password": "s3cret",
    }
    assert (await login(options(sasl=scram()), folder))["security_protocol"] == "SASL_PLAINTEXT"
    assert (await login(options(tls=Tls()), folder))["security_protocol"] == "SSL"
    iam = await login(options(sasl=Sasl(mechanism="AWS_MSK_IAM")), folder)
    assert (iam["security_protocol"], iam["sasl_mechanism"]) == ("SASL_SSL", "OAUTHBEARER")


async def test_a_renewed_password_counts_from_the_next_login_on(tmp_path):
    (tmp_path / "password").write_text("new\n")
    sasl = scram(Secret("old", "file:password"))
    assert (await login(options(sasl=sasl), tmp_path))["sasl_plain_password"] == "new"
    assert (await login(options(sasl=scram(Secret("old", "env:P"))), tmp_path))["sasl_plain_password"] == "old"
    (tmp_path / "password").unlink()
    with pytest.raises(NotConnected, match=r"sasl\.password: .*password cannot be read") as caught:
        await login(options(sasl=sasl), tmp_path)
    assert caught.value.permanent


# --- tokens ---------------------------------------------------------------------------------------------------------------------------


class Issued:
    """Tokens t1, t2, ... that are good for 100 seconds of a clock that stands at `now`; `error` is raised instead."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.count = 0
        self.error: TokenRefused | None = None
        self.lasting: float | None = 100.0

    async def fetch(self) -> Token:
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        self.count += 1
        return Token(f"t{self.count}", None if self.lasting is None else self.now + self.lasting)

    def provider(self) -> TokenProvider:
        return TokenProvider(self.fetch, {"logicalCluster": "x"}, lambda: self.now)


async def test_a_token_is_kept_and_renewed_before_it_expires():
    issued = Issued()
    provider = issued.provider()
    assert [await provider.token() for _ in range(3)] == ["t1"] * 3
    issued.now += 79
    assert await provider.token() == "t1"
    issued.now += 1
    assert await provider.token() == "t2"
    assert provider.extensions() == {"logicalCluster": "x"}


async def test_connections_that_log_in_at_once_share_a_token():
    issued = Issued()
    provider = issued.provider()
    assert await asyncio.gather(*(provider.token() for _ in range(5))) == ["t1"] * 5


async def test_a_token_of_unknown_age_is_asked_for_each_time():
    issued = Issued()
    issued.lasting = None
    provider = issued.provider()
    assert [await provider.token() for _ in range(3)] == ["t1", "t2", "t3"]


async def test_the_token_in_hand_does_while_there_is_no_other(caplog):
    issued = Issued()
    provider = issued.provider()
    await provider.token()
    issued.error = TokenRefused("503", permanent=False)
    issued.now += 99
    assert await provider.token() == "t1"
    assert "could not be renewed" in caplog.text
    issued.now += 1
    with pytest.raises(TokenRefused, match="503"):
        await provider.token()
    issued.error = None
    assert await provider.token() == "t2"


def test_what_a_provider_raises_is_of_aiokafkas_family():
    """Any other exception would end the task in which aiokafka looks after its metadata."""
    assert issubclass(TokenRefused, kafka.KafkaError)


def test_a_token_does_not_show_itself():
    assert "secret" not in repr(Token("secret", 1.0))


async def test_a_token_of_a_file_is_read_each_time(tmp_path):
    (tmp_path / "token").write_text("one\n")
    provider = TokenProvider(from_option(Secret("zero", "file:token"), tmp_path))
    assert await provider.token() == "one"
    (tmp_path / "token").write_text("two")
    assert await provider.token() == "two"
    (tmp_path / "token").write_text("")
    with pytest.raises(TokenRefused, match="is empty"):
        await provider.token()
    (tmp_path / "token").unlink()
    with pytest.raises(TokenRefused, match="cannot be read") as caught:
        await provider.token()
    assert caught.value.permanent
    assert await TokenProvider(from_option("fixed", tmp_path)).token() == "fixed"


class Endpoint:
    """A token endpoint on loopback; `answer` gives status and body, `asked` has what came: (headers, form)."""

    def __init__(self) -> None:
        self.answer: tuple[int, bytes] = (200, b'{"access_token": "abc", "token_type": "Bearer", "expires_in": 60}')
        self.asked: list[tuple[dict[str, str], dict[str, list[str]]]] = []
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:-2])}
            body = await reader.readexactly(int(headers["content-length"]))
            self.asked.append((headers, parse_qs(body.decode())))
            status, answer = self.answer
            writer.write(b"HTTP/1.1 %d Told\r\ncontent-length: %d\r\nlocation: /\r\n\r\n" % (status, len(answer)) + answer)
            await writer.drain()
        finally:
            writer.close()


@asynccontextmanager
async def endpoint(context: ssl.SSLContext | None = None) -> AsyncIterator[Endpoint]:
    served = Endpoint()
    server = await asyncio.start_server(served.serve, "127.0.0.1", 0, ssl=context)
    served.url = f"http{'s' if context else ''}://127.0.0.1:{server.sockets[0].getsockname()[1]}/token"
    try:
        yield served
    finally:
        server.close()


def grant(url: str, **changes: Any) -> Sasl:
    return Sasl(**{"mechanism": "OAUTHBEARER", "token_endpoint": url, "client_id": "me:too", "client_secret": "s3c/ret", **changes})


async def fetched(sasl: Sasl, now: float = 1000.0, context: ssl.SSLContext | None = None) -> Token:
    return await from_endpoint(sasl, Path(), context or ssl.create_default_context(), lambda: now)()


async def test_a_token_endpoint_is_asked_as_the_rfc_says():
    async with endpoint() as server:
        assert await fetched(grant(server.url, scope="a b", audience="kafka")) == ("abc", 1060.0)
        assert await fetched(grant(server.url)) == ("abc", 1060.0)
        (headers, form), (_, bare) = server.asked
    assert base64.b64decode(headers["authorization"].removeprefix("Basic ")) == b"me%3Atoo:s3c%2Fret"
    assert headers["content-type"] == "application/x-www-form-urlencoded"
    assert form == {"grant_type": ["client_credentials"], "scope": ["a b"], "audience": ["kafka"]}
    assert bare == {"grant_type": ["client_credentials"]}


def jwt(**claims: Any) -> str:
    return f"e30.{base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b'=').decode()}.sig"


@pytest.mark.parametrize(
    ("body", "until"),
    [
        ({"access_token": "a", "expires_in": "60"}, 1060.0),
        ({"access_token": "a", "expires_in": 60.5}, 1060.5),
        ({"access_token": "a"}, None),
        ({"access_token": jwt(exp=1234)}, 1234.0),
        ({"access_token": jwt(sub="me")}, None),
        ({"access_token": "a.!.c", "expires_in": None}, None),
    ],
)
async def test_how_long_a_token_lasts(body, until):
    async with endpoint() as server:
        server.answer = 200, json.dumps(body).encode()
        assert await fetched(grant(server.url)) == (body["access_token"], until)


@pytest.mark.parametrize(
    ("status", "body", "says", "permanent"),
    [
        (401, b'{"error": "no", "error_description": "s3c/ret is bad"}', "answered 401 (no: <sasl.client_secret> is bad); check", True),
        (400, b'{"error": "invalid_scope"}', "answered 400 (invalid_scope); check", True),
        (403, b"<html>", "answered 403; check", True),
        (302, b"", "answered 302", True),
        (429, b"", "answered 429", False),
        (503, b"", "answered 503", False),
        (200, b"<html>", "answered 200 without an access_token", True),
        (200, b"[1]", "answered 200 without an access_token", True),
        (200, b'{"access_token": ""}', "answered 200 without an access_token", True),
    ],
)  # fmt: skip
async def test_a_token_endpoint_that_gives_none(status, body, says, permanent):
    async with endpoint() as server:
        server.answer = status, body
        with pytest.raises(TokenRefused) as caught:
            await fetched(grant(server.url))
    assert says in caught.value.text and caught.value.permanent is permanent
    assert "s3c" not in caught.value.text
    assert len(server.asked) == 1


async def test_a_token_endpoint_that_is_away():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(TokenRefused) as caught:
        await fetched(grant(url))
    assert not caught.value.permanent and url in caught.value.text


async def test_a_token_endpoint_behind_the_brokers_authority(tmp_path):
    """`tls.ca` counts for it as well as the system's authorities; and nothing is sent to who is not trusted."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    async with endpoint(context) as server:
        arguments = await login(options(tls=Tls(ca="ca.pem"), sasl=grant(server.url)), tmp_path)
        assert await arguments["sasl_oauth_token_provider"].token() == "abc"
        arguments = await login(options(tls=Tls(), sasl=grant(server.url)), tmp_path)
        with pytest.raises(TokenRefused, match="certificate verify failed") as caught:
            await arguments["sasl_oauth_token_provider"].token()
        assert caught.value.permanent and len(server.asked) == 1


async def test_a_client_secret_is_read_anew(tmp_path):
    (tmp_path / "secret").write_text("new")
    async with endpoint() as server:
        await from_endpoint(grant(server.url, client_secret=Secret("old", "file:secret")), tmp_path, ssl.create_default_context())()
    assert base64.b64decode(server.asked[0][0]["authorization"].removeprefix("Basic ")) == b"me%3Atoo:new"


# --- MSK ------------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """Nothing of the desk that this runs on."""
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    for name in ("AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def decoded(token: Token) -> str:
    return base64.urlsafe_b64decode(token.value + "=" * (-len(token.value) % 4)).decode()


MSK = "b-1.demo.abc.c2.kafka.eu-west-1.amazonaws.com:9098"


async def test_a_token_of_iam(aws):
    aws.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    aws.setenv("AWS_SECRET_ACCESS_KEY", "x")
    fetch = msk.from_iam(options(bootstrap_servers=[MSK], sasl=Sasl(mechanism="AWS_MSK_IAM")), lambda: 1769846400.0)
    token = await fetch()
    assert token.until == 1769846400.0 + 900
    assert decoded(token).startswith("https://kafka.eu-west-1.amazonaws.com/?Action=kafka-cluster%3AConnect&")
    assert "AKIDEXAMPLE%2F20260131%2Feu-west-1" in decoded(token)


async def test_a_profile_and_a_region(aws, tmp_path):
    (tmp_path / "credentials").write_text("[orders]\naws_access_key_id=OTHER\naws_secret_access_key=x\naws_session_token=t\n")
    (tmp_path / "config").write_text("[profile orders]\nregion=ap-south-1\n")
    sasl = Sasl(mechanism="AWS_MSK_IAM", profile="orders")
    assert "OTHER%2F19700101%2Fap-south-1" in decoded(await msk.from_iam(options(sasl=sasl), lambda: 0.0)())
    sasl = Sasl(mechanism="AWS_MSK_IAM", profile="orders", region="us-east-2")
    found = decoded(await msk.from_iam(options(sasl=sasl), lambda: 0.0)())
    assert "us-east-2" in found and "X-Amz-Security-Token=t" in found


ASSUMED = b"""<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult><Credentials>
<AccessKeyId>ROLES</AccessKeyId><SecretAccessKey>x</SecretAccessKey><SessionToken>t</SessionToken>
<Expiration>2100-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>"""
DENIED = b"<ErrorResponse><Error><Code>AccessDenied</Code><Message>not you</Message></Error></ErrorResponse>"


async def test_a_role(aws):
    aws.setenv("AWS_ACCESS_KEY_ID", "MINE")
    aws.setenv("AWS_SECRET_ACCESS_KEY", "x")
    role = options(bootstrap_servers=[MSK], sasl=Sasl(mechanism="AWS_MSK_IAM", role_arn="arn:aws:iam::123456789012:role/r"))
    async with endpoint() as server:
        aws.setenv("AWS_ENDPOINT_URL_STS", server.url)
        server.answer = 403, DENIED
        fetch = msk.from_iam(role)
        with pytest.raises(TokenRefused) as caught:
            await fetch()
        assert caught.value.text == "AssumeRole was refused (AccessDenied: not you)" and caught.value.permanent
        server.answer = 200, ASSUMED
        assert "ROLES%2F" in decoded(await fetch()) and "ROLES%2F" in decoded(await fetch())
        assert len(server.asked) == 2  # its credentials are kept


@pytest.mark.parametrize(
    ("sasl", "servers", "says"),
    [
        (Sasl(mechanism="AWS_MSK_IAM"), [MSK], "no usable credentials"),
        (Sasl(mechanism="AWS_MSK_IAM"), ["broker1:9098"], "set sasl.region, or AWS_REGION"),
        (Sasl(mechanism="AWS_MSK_IAM", profile="nobody"), [MSK], "no usable credentials (The config profile (nobody) could not be found)"),
        (Sasl(mechanism="AWS_MSK_IAM", role_arn="arn:aws:iam::1:role/r"), [MSK], "no usable credentials"),
    ],
)
async def test_iam_without_what_it_needs(aws, sasl, servers, says):
    with pytest.raises(TokenRefused) as caught:
        await msk.from_iam(options(bootstrap_servers=servers, sasl=sasl))()
    assert says in caught.value.text and caught.value.permanent


# --- what errors say ------------------------------------------------------------------------------------------------------------------


def alert(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, f"[SSL: {reason}]")
    error.reason = reason
    return error


CLOSED = kafka.KafkaConnectionError("Connection at broker1:9092 closed")


def closed(by: BaseException) -> BaseException:
    """As aiokafka wraps what broke a connection."""
    error: BaseException = kafka.KafkaConnectionError(*CLOSED.args)
    error.__cause__ = by
    return error


@pytest.mark.parametrize(
    ("error", "changes", "says", "permanent"),
    [
        (
            kafka.SaslAuthenticationFailed("Authentication failed: s3cret is wrong"),
            {"sasl": scram()},
            "login refused (SCRAM-SHA-512 as alice): Authentication failed: <sasl.password> is wrong; check",
            True,
        ),
        (kafka.SaslAuthenticationFailed("no"), {}, "login refused (SASL): no; check sasl", True),
        (kafka.UnsupportedSaslMechanismError(), {"sasl": scram()}, "takes no login by SCRAM-SHA-512 on this port", True),
        (kafka.IllegalSaslStateError(), {"sasl": scram()}, "takes no login at all on this port", True),
        (TokenRefused("it is away", permanent=False), {}, "no token to log in with: it is away", False),
        (TokenRefused("it is no", permanent=True), {}, "no token to log in with: it is no", True),
        (closed(alert("TLSV13_ALERT_CERTIFICATE_REQUIRED")), {}, "a certificate of ours", True),
        (closed(alert("SSLV3_ALERT_BAD_CERTIFICATE")), {"tls": Tls()}, "a certificate of ours", True),
        (alert("TLSV1_ALERT_UNKNOWN_CA"), {"tls": Tls(certificate="c")}, "does not accept our certificate (unknown ca)", True),
        (alert("SSLV3_ALERT_BAD_CERTIFICATE"), {"tls": Tls(certificate="c")}, "does not accept our certificate (bad certificate)", True),
        (alert("WRONG_VERSION_NUMBER"), {"tls": Tls()}, "speaks no TLS on this port", True),
        (alert("NO_SHARED_CIPHER"), {"tls": Tls()}, "TLS failed (NO_SHARED_CIPHER)", True),
        (kafka.TopicAuthorizationFailedError({"b", "a"}), {}, "not allowed: topic a, b; grant", True),
        (kafka.GroupAuthorizationFailedError("g"), {}, "not allowed: consumer group g; grant", True),
        (kafka.UnknownTopicOrPartitionError(), {}, "there is no such topic", True),
        (kafka.InvalidSessionTimeoutError(), {}, "session_timeout", True),
        (kafka.InconsistentGroupProtocolError(), {}, "a group of its own", True),
        (kafka.UnsupportedVersionError("x"), {}, "too old or too new", True),
        (socket.gaierror(-2, "Name or service not known"), {}, "leads nowhere (Name or service not known)", False),
        (ConnectionRefusedError(111, "x"), {}, "nobody listens there", False),
        (TimeoutError(), {}, "no answer in time", False),
        (OSError(113, "No route to host"), {}, "cannot be reached (No route to host)", False),
        (CLOSED, {}, "perhaps it wants TLS on this port (then set tls), or a login", False),
        (CLOSED, {"tls": Tls()}, "perhaps it wants a login on this port (then set sasl)", False),
        (closed(ConnectionResetError()), {"tls": Tls(), "sasl": scram()}, "the broker closed the connection", False),
        (ConnectionResetError(104, "x"), {"tls": Tls()}, "while TLS was begun", False),
        (kafka.GroupCoordinatorNotAvailableError(), {}, "GroupCoordinatorNotAvailableError", False),
        (kafka.KafkaError("anything"), {}, "KafkaError: anything", False),
    ],
)  # fmt: skip
def test_what_an_error_says(error, changes, says, permanent):
    found = refused(error, "somewhere", options(**changes))
    assert str(found).startswith("somewhere: ")
    assert says in str(found)
    assert found.permanent is permanent
    assert "s3cret" not in str(found)


def test_an_error_of_ours_stays_as_it_is():
    error = NotConnected("x")
    assert refused(error, "somewhere") is error


@pytest.mark.parametrize(
    ("message", "says"),
    [
        ("unable to get local issuer certificate", "tls.ca is not the authority that signed it"),
        ("self-signed certificate in certificate chain", "tls.ca is not"),
        ("Hostname mismatch, certificate is not valid for 'x'.", "use a name in bootstrap_servers that the certificate holds"),
        ("IP address mismatch, certificate is not valid for '::1'.", "use a name in bootstrap_servers"),
        ("certificate has expired", "it must be renewed at the broker"),
    ],
)
def test_a_certificate_that_is_not_trusted(message, says):
    error = ssl.SSLCertVerificationError(1, message)
    error.verify_message = message
    found = refused(error, "x", options(tls=Tls(ca="ca.pem")))
    assert message in str(found) and says in str(found) and found.permanent


def test_places():
    assert place_of(options()) == "Kafka topic orders at broker1:9092"
    assert place_of(options(topic=None, topics=["a", "b"]), "b2:1") == "Kafka topics a, b at b2:1"


@asynccontextmanager
async def answering(how: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[object]]) -> AsyncIterator[str]:
    """The address of something that is no broker; gone when every connection is."""
    served = list[asyncio.Task[None]]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await how(reader, writer)
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(lambda *line: served.append(asyncio.create_task(serve(*line))), "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await asyncio.gather(*served, return_exceptions=True)


async def test_each_broker_says_why_not():
    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"127.0.0.1:{free.getsockname()[1]}"
    async with answering(hang_up) as closing:
        told = options(bootstrap_servers=[nobody, closing])
        with pytest.raises(NotConnected) as caught:
            await reach(told, await login(told, Path()))
    first, second = str(caught.value).splitlines()
    assert first == f"Kafka topic orders at {nobody}: nobody listens there (connection refused)"
    assert second.startswith(f"{closing}: the broker closed the connection")
    assert not caught.value.permanent


async def test_who_does_not_answer_is_not_waited_for():
    async with answering(lambda reader, _: reader.read()) as address:
        told = options(bootstrap_servers=[address])
        with pytest.raises(NotConnected, match="no answer in time"):
            await reach(told, await login(told, Path()), 0.05)


async def test_what_is_no_broker_is_no_surprise():
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(b"\x00\x00\x00\x08HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()

    async with answering(greet) as address:
        told = options(bootstrap_servers=[address])
        with pytest.raises(NotConnected, match=f"at {address}: "):
            await reach(told, await login(told, Path()), 1.0)


async def test_a_refused_token_is_heard():
    """aiokafka itself would take the answer for a yes."""
    connection = AIOKafkaConnection("broker1", 9092, sasl_mechanism="OAUTHBEARER", sasl_oauth_token_provider=Issued().provider())
    asking = connection.authenticator_oauth()
    request, _ = await asking.step(None)
    assert b"auth=Bearer t1\x01logicalCluster=x\x01" in request
    with pytest.raises(kafka.SaslAuthenticationFailed, match="invalid_token"):
        await asking.step(b'{"status":"invalid_token"}')
    assert await asking.step(b"") is None


# --- check --live ---------------------------------------------------------------------------------------------------------------------

P0, P1 = TopicPartition("orders", 0), TopicPartition("orders", 1)
NOW = 1769846400.0


def findings(seen: Callable[[Seen], Seen] = lambda seen: seen, aged: bool = False, **changes: Any) -> list[tuple[str, str]]:
    bare = Seen({P0: (0, 10), P1: (5, 5)}, {}, Group("", ()), {"orders": "CreateTime"})
    return [(each.level, each.text) for each in told(options(**changes), "poller-m", seen(bare), aged, NOW)]


def test_a_new_group():
    assert findings() == [
        ("ok", "topic 'orders' is there, has 2 partitions, and we may read it"),
        ("ok", "group 'poller-m' has no members now, and may be described (joining it was not tried: it would move partitions)"),
        ("ok", "2 partitions without committed offsets: read from the oldest record on (TRIM_HORIZON); up to 10 are there"),
    ]


def test_latest_passes_over_what_is_there():
    assert findings(starting_position="LATEST")[-1] == (
        "warning",
        '2 partitions without committed offsets: starting_position = "LATEST" passes over what is there before the first start'
        " (up to 10 records now)",
    )
    empty = findings(lambda seen: seen._replace(bounds={P0: (3, 3)}), starting_position="LATEST")
    assert empty[-1][0] == "ok"


def test_a_time_to_begin_at():
    level, text = findings(starting_position="AT_TIMESTAMP", starting_position_timestamp=NOW - 1)[-2]
    assert level == "ok" and "or later on" in text
    level, text = findings(starting_position="AT_TIMESTAMP", starting_position_timestamp="2026-01-31T08:00:01Z")[-2]
    assert level == "warning" and "in the future" in text


def test_committed_offsets_win():
    found = findings(lambda seen: seen._replace(committed={P0: 4, P1: 5}), starting_position="LATEST")
    assert found[-1] == ("ok", "group 'poller-m' goes on where it stopped on 2 partitions, 6 behind the end")
    found = findings(lambda seen: seen._replace(committed={P0: 4}))
    assert found[-1][1].startswith("1 partition without committed offsets")


def test_what_retention_took_is_said():
    found = findings(lambda seen: seen._replace(committed={P1: 2, P0: 10}))
    assert (
        "warning",
        "orders-1: group 'poller-m' has committed 2, but records are kept from 5 on: 3 were removed before they were read",
    ) in found
    assert ("ok", "group 'poller-m' goes on where it stopped on 2 partitions, 0 behind the end") in found
    found = findings(lambda seen: seen._replace(committed={P0: 11}))
    assert any(level == "warning" and "ends at 10: it was cut off or made anew" in text for level, text in found)


def members(*who: Member, kind: str = "consumer") -> Callable[[Seen], Seen]:
    return lambda seen: seen._replace(group=Group(kind, who))


def test_who_else_is_in_the_group():
    ours, other = Member("poller-1", "poller", "/10.0.0.1"), Member("rdkafka-1", "rdkafka", "/10.0.0.2")
    assert findings(members(ours))[1] == (
        "ok",
        "group 'poller-m' has 1 member with our client_id (10.0.0.1): daemons that run this mapping",
    )
    level, text = findings(members(ours, other))[2]
    assert level == "warning" and "shared with rdkafka (10.0.0.2)" in text
    level, text = findings(members(Member("c", "connect-1", "/h"), kind="connect"))[1]
    assert level == "error" and "one of 'connect', not of consumers" in text
    level, text = findings(members(Member("host-1-5a2f", "poller", "/h")), group_instance_id="host-1")[2]
    assert level == "warning" and "throw each other out" in text
    assert len(findings(members(Member("host-2-5a2f", "poller", "/h")), group_instance_id="host-1")) == 3


def test_whose_clock_it_is():
    assert findings(aged=True)[-1] == (
        "ok",
        "topic 'orders': timestamps are the producers' (CreateTime); maximum_record_age go by their clocks",
    )
    assert "CreateTime" not in findings(lambda seen: seen._replace(times={"orders": "LogAppendTime"}), aged=True)[-1][1]


def test_findings_are_findings():
    assert all(isinstance(each, Finding) for each in told(options(), "g", Seen({}, {}, Group("", ()), {}), False, NOW))
