"""``manage.py serve``, as an app of its own for ``INSTALLED_APPS``."""
