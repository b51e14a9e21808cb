"""The body of a delivery where it must not be larger than its destination takes. Vendor-free.

What is too large is put in its place *before* the body is made that points there. An object's key is made from the failure's id and time:
it may be put any number of times, by the bucket's own delivery and by those who point there.
"""

from __future__ import annotations

from poller.failures.invocation import Form, record
from poller.failures.journal import Delivery
from poller.settings import DestinationContext


async def body(delivery: Delivery, context: DestinationContext, limit: int | None, *, form: Form = "text", carried: bool = False) -> bytes:
    """`form`, `carried`: see `invocation.record`. What is too large is put in its place first, so that nobody is told of a place
    where nothing is. Raises NotConnected: it could not be put there."""
    whole = record(delivery, context, form=form, carried=carried)
    if limit is None or len(whole) <= limit:
        return whole
    place = None if context.exact or context.spill is None else await context.spill(delivery)
    return record(delivery, context, limit, form=form, carried=carried, place=place)
