"""The admin and Anymail's webhooks, for their tests."""

from django.contrib import admin
from django.urls import include, path

urlpatterns = [path("admin/", admin.site.urls), path("anymail/", include("anymail.urls"))]
