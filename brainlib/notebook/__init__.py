"""What frames a notebook: parameters, run folder and record, and executing notebooks in order."""
