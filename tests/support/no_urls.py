"""The URLs of a project without any: a worker checks them at its start, and the admin's take half of that."""

from __future__ import annotations

urlpatterns: list[object] = []
