"""``manage.py serve``: the site, and a worker beside it, with one command.

An app of its own for ``INSTALLED_APPS``; it needs the extra ``serve``.
"""
