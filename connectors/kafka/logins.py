"""How we log in: the arguments that every client of aiokafka takes, and a try at it that says why it fails.

aiokafka itself puts the reason into its log and raises "Unable to bootstrap": `reach` asks the brokers first, and tells the person.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aiokafka import errors as kafka
from aiokafka.conn import create_conn
from aiokafka.protocol.metadata import MetadataRequest

from connectors.kafka.files import current
from connectors.kafka.options import KafkaOptions, Sasl
from connectors.kafka.refusals import place_of, refused
from connectors.kafka.tls import tls_context, trusting
from connectors.kafka.tokens import TokenProvider, from_endpoint, from_option
from poller.errors import NotConnected

REACH_SECONDS = 10.0
"""How long one broker may take to let us in."""


async def login(options: KafkaOptions, base: Path) -> dict[str, Any]:
    """Keyword arguments for any client of aiokafka. `base`: where relative paths start.

    What came from a file is read anew by each call, so that who opens a source again logs in with what is there now.
    Raises NotConnected (permanent) that names the file which cannot be used.
    """
    try:
        return await _arguments(options, base)
    except NotConnected as error:
        raise NotConnected(f"{place_of(options)}: {error}", permanent=True) from None


async def _arguments(options: KafkaOptions, base: Path) -> dict[str, Any]:
    tls, sasl = options.encrypted, options.sasl
    arguments: dict[str, Any] = {
        "bootstrap_servers": list(options.bootstrap_servers),
        "client_id": options.client_id,
        "security_protocol": ("" if sasl is None else "SASL_") + ("PLAINTEXT" if tls is None else "SSL"),
    }
    if tls is not None:
        arguments["ssl_context"] = await asyncio.to_thread(tls_context, tls, base)
    if sasl is not None:
        arguments |= await _sasl(sasl, options, base)
    return arguments


async def _sasl(sasl: Sasl, options: KafkaOptions, base: Path) -> dict[str, Any]:
    if sasl.mechanism == "AWS_MSK_IAM":
        from connectors.kafka.msk import from_iam

        return {"sasl_mechanism": "OAUTHBEARER", "sasl_oauth_token_provider": TokenProvider(from_iam(options))}
    if sasl.mechanism == "OAUTHBEARER":
        if sasl.token is not None:
            fetch = from_option(sasl.token, base)
        else:
            fetch = from_endpoint(sasl, base, await asyncio.to_thread(trusting, options.tls, base))
        return {"sasl_mechanism": "OAUTHBEARER", "sasl_oauth_token_provider": TokenProvider(fetch, sasl.extensions)}
    return {
        "sasl_mechanism": sasl.mechanism,
        "sasl_plain_username": await asyncio.to_thread(current, "sasl.username", sasl.username or "", base),
        "sasl_plain_password": await asyncio.to_thread(current, "sasl.password", sasl.password or "", base),
    }


async def reach(options: KafkaOptions, arguments: Mapping[str, Any], seconds: float = REACH_SECONDS) -> str:
    """The first of the bootstrap servers that lets us in. Raises NotConnected with what each of them said; permanent if one refused us
    in a way that a person must mend."""
    refusals = list[NotConnected]()
    for server in options.bootstrap_servers:
        try:
            async with asyncio.timeout(seconds):
                await _try(server, arguments, seconds)
        except (kafka.KafkaError, OSError, TimeoutError, ValueError, LookupError, AssertionError) as error:
            # The last three: what is no broker may answer anything, and aiokafka believes it.
            refusals.append(refused(error, place_of(options, server) if not refusals else server, options))
        else:
            return server
    text = "\n".join(str(refusal) for refusal in refusals)
    raise NotConnected(text, permanent=any(refusal.permanent for refusal in refusals))


async def _try(server: str, arguments: Mapping[str, Any], seconds: float) -> None:
    host, _, port = server.rpartition(":")
    settings = {key: value for key, value in arguments.items() if key != "bootstrap_servers"}
    connection = await create_conn(host.strip("[]"), int(port), request_timeout_ms=int(seconds * 1000), **settings)
    try:
        # Who needs a login, and who did not like our token, says so only to what comes after it.
        await connection.send(MetadataRequest([]))
    finally:
        closed = connection.close()
        if closed is not None:
            await closed
