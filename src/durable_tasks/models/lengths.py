"""Lengths of the text columns, in characters.

MySQL limits an index to 3072 bytes, 4 a character.
"""

MAX_NAME = 100
MAX_PATH = 255
MAX_WORKER_ID = 200
