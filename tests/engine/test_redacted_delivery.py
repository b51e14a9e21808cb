"""What a mapping redacts does not reach its destinations; the journal has it all the same."""

from __future__ import annotations

from dataclasses import replace

from poller.failures.entry import successes
from poller.settings import RedactionSettings
from poller.testing.clock import run_virtually
from poller.testing.journals import ANY, make_entry
from poller.testing.postal import PostalWorld


def test_destinations_are_sent_what_may_be_seen() -> None:
    async def scene(world: PostalWorld) -> None:
        settings = replace(world.mapping.settings, redaction=RedactionSettings((("messageId",), ("responsePayload", "card"))))
        world.mapping = replace(world.mapping, settings=settings)
        life = await world.live()
        await world.fail("f1", life=life)
        done = make_entry("s1", "s1", destinations=tuple(world.receivers))
        await world.store.outbox.put(successes(done, b'{"card": "4111", "n": 1}'))
        await world.emptied(60.0)
        await life.couriers.aclose()
        for receiver in world.receivers.values():
            arrived, handled = sorted(receiver.arrived, key=lambda each: each.outcome)
            for each in (arrived, handled):
                assert [record.json for record in each.entry.records] == [b'{"messageId":"***"}']
            assert handled.result == b'{"card":"***","n":1}'
        (row,) = await world.store.journal.select(ANY)
        assert [record.json for record in row.entry.records] == [b'{"messageId":"f1"}']

    run_virtually(scene(PostalWorld(1)))
