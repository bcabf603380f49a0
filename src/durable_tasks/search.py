"""Which jobs somebody looks for, at a cost that does not grow with the table.

No page reads more than ``WINDOW`` rows. The rows are read in the order of an index that the status
decides on; what no index serves is looked for among these. A page that is not full says how far
it has looked, and the next one goes on from there.
"""

# Rows that one page looks at.
WINDOW = 10_000
