"""Benchmarks: how fast a worker is, beside its peers, and whether claims stay cheap.

``python -m benchmarks [--quick] [--only NAME]``, or ``make bench`` and ``make bench QUICK=1``.
A further measure is a module with ``run(bench)`` and its line in ``__main__.MEASURES``; a further
peer is an entry of ``contenders.PEERS`` and a folder in ``projects``.
"""
