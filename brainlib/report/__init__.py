"""What a reader gets: answers in Python, the HTML report of a study, and the app.

`answers` takes any scan, `html` writes reports, `words` and `drawing` are what they and `app` say
and show.
"""

# ruff: noqa: F401

from brainlib.report.answers import Answer, Answers, Model, load
from brainlib.report.html import remove_reports, render_report, write_report, write_reports
