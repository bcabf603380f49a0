"""``python -m enqueue KIND COUNT``: fill the queue of the project in the current folder."""

import sys

import django

if __name__ == "__main__":
    django.setup()

    import tasks

    tasks.enqueue(sys.argv[1], int(sys.argv[2]))
