"""What `detect` leaves behind, a module a kind of result; the table of them is in `table.py`."""
