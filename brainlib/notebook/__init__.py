"""Notebook support: parameters, run folder and record, and execution of notebooks in order."""
