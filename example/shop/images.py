"""Grey images as rows of numbers, in the plain PGM format: enough to have something to resize."""


def parse(text):
    """Return the rows of a plain PGM image (magic number P2)."""
    words = [word for line in text.splitlines() for word in line.partition("#")[0].split()]
    magic, width, height, _brightest, *values = words
    if magic != "P2":
        raise ValueError("This is no plain PGM image.")
    width, height = int(width), int(height)
    return [[int(v) for v in values[y * width : (y + 1) * width]] for y in range(height)]


def format(rows):
    """Return rows as a plain PGM image."""
    lines = ["P2", f"{len(rows[0])} {len(rows)}", "255"]
    return "\n".join([*lines, *(" ".join(map(str, row)) for row in rows), ""])


def resize(rows, width):
    """Return a smaller image; each pixel is the mean of those it stands for."""
    old_width, old_height = len(rows[0]), len(rows)
    height = max(1, old_height * width // old_width)

    def mean(x, y):
        columns = slice(x * old_width // width, (x + 1) * old_width // width)
        lines = slice(y * old_height // height, (y + 1) * old_height // height)
        pixels = [pixel for row in rows[lines] for pixel in row[columns]]
        return sum(pixels) // len(pixels)

    return [[mean(x, y) for x in range(width)] for y in range(height)]
