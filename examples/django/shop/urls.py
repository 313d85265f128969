"""Addresses of the project."""

from __future__ import annotations

from django.urls import path
from orders import views

urlpatterns = [
    path("orders/", views.place_order),
    path("orders/<int:number>/", views.show_order),
    path("tasks/<uuid:task_id>/", views.show_task),
]
