"""Ends whoever imports it, as a script does that is no module."""

raise SystemExit("this is a script")
