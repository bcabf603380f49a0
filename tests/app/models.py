"""What the tests' tasks do, written down where every process can see it."""

import os

from django.db import models


def this_process() -> str:
    return str(os.getpid())


class Effect(models.Model):
    """One side effect of a task. Nothing here is unique: a job that ran twice shows twice."""

    key = models.CharField(max_length=100)
    worker = models.CharField(max_length=200, default=this_process)
    at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ("id",)

    def __str__(self) -> str:
        return f"{self.key} by {self.worker}"
