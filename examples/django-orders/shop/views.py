"""Place and cancel an order. The reminder goes with it, in one transaction."""

from __future__ import annotations

import json

from datetime import timedelta

from django.db import IntegrityError, connection, transaction
from django.http import HttpRequest, JsonResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_http_methods, require_POST

from shop.models import Order
from shop.store import pit


class Refused(Exception):
    """An order that a rule of the business forbids."""


@csrf_exempt
@require_POST
def place(request: HttpRequest) -> JsonResponse:
    """Store an order and its reminder, or neither."""
    given = json.loads(request.body)
    try:
        with transaction.atomic():
            store_order(given["number"], given["amount"], timedelta(seconds=given.get("remind_after", 3 * 24 * 3600)))
    except Refused as error:
        return JsonResponse({"error": str(error)}, status=422)
    except IntegrityError:
        return JsonResponse({"error": "There is such an order."}, status=409)
    return JsonResponse({"number": given["number"]}, status=201)


def store_order(number: int, amount: int, remind_after: timedelta) -> None:
    """Store an order and its reminder in the transaction of the caller."""
    pit().store({"id": f"order-{number}", "order": number}, remind_after, session=connection)
    Order.objects.create(number=number, amount=amount)
    if amount < 0:
        # Found out in the midst of the transaction, as rules of a business often are.
        raise Refused("The amount is negative.")


@csrf_exempt
@require_http_methods(["DELETE"])
def cancel(_: HttpRequest, number: int) -> JsonResponse:
    """Remove an order and its reminder."""
    with transaction.atomic():
        count, _by_model = Order.objects.filter(number=number).delete()
        pit().remove(f"order-{number}", session=connection)
    return JsonResponse({"removed": count}, status=200 if count else 404)
