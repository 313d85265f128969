"""Tasks of this application; it does not know the App of the project that uses it."""

from __future__ import annotations

from orders.models import Order
from zmqtasks import shared_task


@shared_task
def confirm(number: int) -> str:
    """Confirm an order, and say so."""
    order = Order.objects.get(pk=number)
    order.state = "confirmed"
    order.save(update_fields=["state"])
    return f"{order.pieces} pieces of {order.item} are on their way"


@shared_task
async def count_confirmed() -> int:
    """How many orders are confirmed; Django's asynchronous queries work, too."""
    return await Order.objects.filter(state="confirmed").acount()
