"""A project with a `handlers` folder: the commonest layout there is."""

import handlers.orders
from handlers.common import written


def handle(event, context):
    written(handlers.orders.lines(event))
