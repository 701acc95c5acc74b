"""A store's quality as an HTML page (`write_report`), and plots of single utterances (`utterance_plot`)."""

from headrace.featurize.report.report import Report, write_report

__all__ = ["Report", "write_report"]
