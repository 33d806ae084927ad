"""Settings: no server needed; PostgreSQL, Redis and RabbitMQ by environment variables (see README.md)."""

import os
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

DIRECTORY = Path(os.environ.get("SHOP_DIRECTORY") or Path(__file__).parents[2] / "build" / "demo")
DIRECTORY.mkdir(parents=True, exist_ok=True)

SECRET_KEY = os.environ.get("SHOP_SECRET_KEY", "for the example only")
DEBUG = os.environ.get("SHOP_DEBUG", "1") == "1"
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
ROOT_URLCONF = "shop.urls"
USE_TZ = True
TIME_ZONE = "UTC"
STATIC_URL = "static/"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "django_celery_results",
    "celery_idempotent",
    "shop",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]


# -- databases -------------------------------------------------------------------------------------------


def sqlite(name: str) -> dict[str, Any]:
    """Return a SQLite database that several processes can write to."""
    pragmas = "PRAGMA journal_mode=wal; PRAGMA synchronous=normal"
    return {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": str(DIRECTORY / name),
        "OPTIONS": {"timeout": 30, "transaction_mode": "IMMEDIATE", "init_command": pragmas},
    }


def server(url: str) -> dict[str, Any]:
    """Return the database of ``postgresql://user:password@host:port/name`` (or ``mysql://…``)."""
    parts = urlsplit(url)
    engine = {"postgres": "postgresql"}.get(parts.scheme, parts.scheme)
    return {
        "ENGINE": f"django.db.backends.{engine}",
        "NAME": unquote(parts.path.lstrip("/")),
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": parts.hostname or "",
        "PORT": str(parts.port or ""),
    }


CELERY_IDEMPOTENT: dict[str, Any] = {
    "MESSAGE_ID_DOMAIN": "shop.example",
    "REDELIVER_AFTER": float(os.environ.get("SHOP_REDELIVER_AFTER", "900")),
}
if url := os.environ.get("SHOP_DATABASE_URL"):
    # The ledger opens a connection of its own to the same database.
    DATABASES = {"default": server(url)}
else:
    # SQLite lets one transaction write at a time, so the ledger gets a file of its own.
    DATABASES = {"default": sqlite("shop.sqlite3"), "ledger": sqlite("ledger.sqlite3")}
    DATABASE_ROUTERS = ["celery_idempotent.router.LedgerRouter"]
    CELERY_IDEMPOTENT["DATABASE"] = "ledger"

if level := os.environ.get("SHOP_LOG_LEVEL"):
    # At INFO a relay tells what it has published.
    LOGGING = {
        "version": 1,
        "disable_existing_loggers": False,
        "handlers": {"stderr": {"class": "logging.StreamHandler"}},
        "loggers": {"celery_idempotent": {"handlers": ["stderr"], "level": level}},
    }

# -- mail ------------------------------------------------------------------------------------------------

EMAIL_BACKEND = "celery_idempotent.mail.EmailBackend"
EMAIL_HOST = os.environ.get("SHOP_EMAIL_HOST", "127.0.0.1")
EMAIL_PORT = int(os.environ.get("SHOP_EMAIL_PORT", "2525"))
EMAIL_TIMEOUT = 10
DEFAULT_FROM_EMAIL = "shop@shop.example"

# -- Celery ----------------------------------------------------------------------------------------------

CELERY_BROKER_URL = os.environ.get("SHOP_BROKER_URL", "filesystem://")
CELERY_RESULT_BACKEND = os.environ.get("SHOP_RESULT_BACKEND", "django-db")
CELERY_RESULT_EXTENDED = True
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_WORKER_ENABLE_REMOTE_CONTROL = not CELERY_BROKER_URL.startswith("filesystem")
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_WORKER_LOST_WAIT = 0.5
# A round that nobody took before the next one is not wanted any more.
WELCOME = {"task": "shop.tasks.welcome_new_customers", "schedule": 10.0, "options": {"expires": 10.0}}
SWEEP = {"task": "celery_idempotent.sweep", "schedule": 60, "options": {"expires": 60}}
PURGE = {"task": "celery_idempotent.purge", "schedule": 24 * 3600}
# Publishes what waits in the outbox; `manage.py idempotency relay --continuous` does the same without beat.
RELAY = {"task": "celery_idempotent.relay", "schedule": 10.0, "options": {"expires": 10.0}}
CELERY_BEAT_SCHEDULE = {"welcome": WELCOME, "sweep": SWEEP, "purge": PURGE, "relay": RELAY}
CELERY_BEAT_SCHEDULE_FILENAME = str(DIRECTORY / "beat-schedule")
CELERY_BEAT_SYNC_EVERY = 1  # the file's age says whether beat is alive
if CELERY_BROKER_URL.startswith("filesystem"):
    folders = {name: DIRECTORY / "broker" / name for name in ("queue", "taken", "control")}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    CELERY_BROKER_TRANSPORT_OPTIONS = {
        "data_folder_in": str(folders["queue"]),
        "data_folder_out": str(folders["queue"]),
        "control_folder": str(folders["control"]),
        # Taking a message is one rename on one file system, so only one worker can have it.
        "store_processed": True,
        "processed_folder": str(folders["taken"]),
        "polling_interval": 0.05,
    }
