"""Settings of the example. The parts about tasks are the first three."""

from pathlib import Path

import django

from durable_tasks import Periodic

BASE_DIR = Path(__file__).resolve().parent.parent
# What tasks leave behind: mails and thumbnails.
VAR_DIR = BASE_DIR / "var"

# Tasks ------------------------------------------------------------------------------------------

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "durable_tasks",
    "shop",
]
if django.VERSION < (6, 0):
    INSTALLED_APPS.append("django_tasks")  # Django 5.2 gets its Tasks API from the backport

TASKS = {
    "default": {
        "BACKEND": "durable_tasks.DatabaseBackend",
        "QUEUES": ["default", "warehouse", "reports"],
        "OPTIONS": {
            "periodic": {"Count the stock": Periodic("* * * * *", task="shop.tasks.count_stock")},
            # What else may get a schedule, in the admin.
            "schedulable": ["shop.reports.sales_report", "shop.tasks.ask_suppliers"],
        },
    }
}

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": BASE_DIR / "db.sqlite3",
        "OPTIONS": {
            # The web server and the worker write to one file: take the write lock at once...
            "transaction_mode": "IMMEDIATE",
            # ... and let readers and the writer work side by side.
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
        },
    }
}

# The rest ---------------------------------------------------------------------------------------

# Right for an example on your own machine, wrong for anything else.
DEBUG = True
SECRET_KEY = "not a secret: this project only ever runs on your own machine"
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]

DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
TIME_ZONE = "UTC"
ROOT_URLCONF = "project.urls"
STATIC_URL = "static/"

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
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
            ],
        },
    },
]

# Mails become files: nothing leaves this machine.
DEFAULT_FROM_EMAIL = "shop@example.com"
if django.VERSION >= (6, 1):
    MAILERS = {
        "default": {
            "BACKEND": "django.core.mail.backends.filebased.EmailBackend",
            "OPTIONS": {"file_path": VAR_DIR / "outbox"},
        }
    }
else:
    EMAIL_BACKEND = "django.core.mail.backends.filebased.EmailBackend"
    EMAIL_FILE_PATH = VAR_DIR / "outbox"
