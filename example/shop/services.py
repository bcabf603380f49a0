"""The bank, the courier and the printer: what a shop can't do itself, and what goes wrong there.

They only pretend. ``SHOP_TROUBLE`` in the environment is the share of calls, from 0 to 1, that the
courier refuses; the others have less trouble. Without it all goes well.
"""

import os
import random
import time

TROUBLE = float(os.environ.get("SHOP_TROUBLE") or 0)
PRICES = {"Avalon": "4.90", "Camelot": "5.40", "Tintagel": "6.10"}


class BankAway(ConnectionError):
    """The bank can't be reached."""


class CourierBusy(Exception):
    """Nobody comes for a parcel now; somebody may, later."""


def goes_wrong(often):
    return random.random() < TROUBLE * often


def charge(card, euros):
    """Take the money from the card."""
    if goes_wrong(0.2):
        raise BankAway("The bank does not answer")
    return f"charged {euros} euros"


def book(parcel, city):
    """Return the van that comes for a parcel."""
    if goes_wrong(1):
        raise CourierBusy("All vans are out")
    return f"van {parcel % 9 + 1}, {price_to(city)} euros"


def price_to(city):
    if goes_wrong(0.1):
        city = "Atlantis"
    return PRICES[city]


def render(document):
    """Print a document; printers take their time."""
    time.sleep(random.uniform(1.5, 4) if TROUBLE else 0)
    if goes_wrong(0.25):
        raise OSError("The printer is out of ink")
    return f"{document}, 1 page"
