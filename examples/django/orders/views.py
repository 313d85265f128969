"""Pages: one places an order, which a task confirms; others show how it and the task stand."""

from __future__ import annotations

from uuid import UUID

from django.db import transaction
from django.http import HttpRequest, JsonResponse
from django.shortcuts import get_object_or_404
from django.views.decorators.http import require_GET, require_POST

from orders.models import Order
from orders.tasks import confirm
from zmqtasks import AsyncResult


@require_POST
def place_order(request: HttpRequest) -> JsonResponse:
    """Save the order; once that is committed, a worker confirms it."""
    with transaction.atomic():
        order = Order.objects.create(item=request.POST["item"], pieces=int(request.POST["pieces"]))
        task_id = confirm.delay_on_commit(order.pk)
        if order.pieces == 0:
            transaction.set_rollback(True)  # neither the order nor the task will ever be
            return JsonResponse({"error": "no pieces", "task": task_id}, status=400)
    return JsonResponse({"order": order.pk, "task": task_id}, status=201)


@require_GET
def show_order(request: HttpRequest, number: int) -> JsonResponse:
    """How an order stands."""
    order = get_object_or_404(Order, pk=number)
    return JsonResponse({"item": order.item, "pieces": order.pieces, "state": order.state})


@require_GET
def show_task(request: HttpRequest, task_id: UUID) -> JsonResponse:
    """How a task stands, with its result once there is one."""
    result = AsyncResult(str(task_id))
    state = result.state
    return JsonResponse({"state": state, "result": result.get() if state == "SUCCESS" else None})
