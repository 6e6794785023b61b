"""The settings of the project: a database, and nothing that this example does not need."""

import os


SECRET_KEY = os.environ.get("SECRET_KEY", "for this example alone")
ALLOWED_HOSTS = ["*"]
INSTALLED_APPS = ["shop"]
TEST_RUNNER = "shop.runner.Runner"
ROOT_URLCONF = "shop.urls"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# PGHOST, PGPORT, PGUSER and PGPASSWORD count where a value is empty: Pitstop and Django use the same driver.
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": os.environ.get("PGDATABASE", "shop"),
        "USER": "",
        "PASSWORD": "",
        "HOST": "",
        "PORT": "",
        # The threads of a consumer give their connections back after each message, as requests do.
        "OPTIONS": {"pool": True},
        "TEST": {"NAME": os.environ.get("PGDATABASE", "shop") + "_test"},
    }
}
