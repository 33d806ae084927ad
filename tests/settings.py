"""Django settings of the in-process tests. Broker, databases and mail server come from the environment."""

import json
import os

import pymysql

pymysql.version_info = (2, 2, 7, "final", 0)  # Django asks MySQLdb for its version; PyMySQL stands in for it
pymysql.install_as_MySQLdb()

SECRET_KEY = "only for tests, and at least fifty characters long, as Django likes it"
USE_TZ = True
TIME_ZONE = "UTC"
ROOT_URLCONF = os.environ.get("TEST_URLCONF", "tests.urls")
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
STATIC_URL = "/static/"
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django_celery_results",
    "celery_idempotent",
]
if ROOT_URLCONF == "tests.urls":  # these take a worker as long as all the rest
    INSTALLED_APPS += [
        "django.contrib.admin",
        "django.contrib.messages",
        "django.contrib.sessions",
        "django.contrib.staticfiles",
        "anymail",
        "celery_idempotent.contrib.anymail",
    ]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
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
_SQLITE = {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
DATABASES = {"default": json.loads(os.environ.get("TEST_DATABASE", "null")) or _SQLITE}
EMAIL_BACKEND = "celery_idempotent.mail.EmailBackend"
EMAIL_HOST = "127.0.0.1"
EMAIL_PORT = int(os.environ.get("TEST_SMTP_PORT", "1"))
EMAIL_TIMEOUT = 20
DEFAULT_FROM_EMAIL = "shop@example.com"
CELERY_IDEMPOTENT = {"MESSAGE_ID_DOMAIN": "shop.example.com"}
CELERY_IDEMPOTENT.update(json.loads(os.environ.get("TEST_IDEMPOTENT", "{}")))
ANYMAIL = json.loads(os.environ.get("TEST_ANYMAIL", "{}"))
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
}
