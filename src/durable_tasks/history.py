"""What was: charts and groups of errors, from the rows that workers fill; jobs are not read."""
