"""What a mapping redacts does not reach its destinations; the journal has it all the same."""

from __future__ import annotations

from dataclasses import replace

from poller.settings import RedactionSettings
from poller.testing.clock import run_virtually
from poller.testing.journals import ANY
from poller.testing.postal import PostalWorld


def test_destinations_are_sent_what_may_be_seen() -> None:
    async def scene(world: PostalWorld) -> None:
        settings = replace(world.mapping.settings, redaction=RedactionSettings((("messageId",),)))
        world.mapping = replace(world.mapping, settings=settings)
        life = await world.live()
        await world.fail("f1", life=life)
        await world.emptied(60.0)
        await life.couriers.aclose()
        for receiver in world.receivers.values():
            (arrived,) = receiver.arrived
            assert [record.json for record in arrived.entry.records] == [b'{"messageId":"***"}']
        (row,) = await world.store.journal.select(ANY)
        assert [record.json for record in row.entry.records] == [b'{"messageId":"f1"}']

    run_virtually(scene(PostalWorld(1)))
