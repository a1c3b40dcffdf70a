"""The report of a sweep: one HTML file with interactive plots, and the same plots as files.

Floors of this folder: :mod:`.links` and :mod:`.measures` (figures of one record), :mod:`.problems` (which records
belong together), :mod:`.figures`, :mod:`.traces`, :mod:`.summary` and :mod:`.table` (what is shown, as data), then
:mod:`.charts` with :mod:`.symbols` (each plot as one specification) and :mod:`.theme` (its colours), and at the top
:mod:`.page` and :mod:`.files`, which hand the specifications to Vega in a browser or out of one.
"""

from tokenring_xdit.bench.report.writing import REPORT_FILE, find_results, refuse_missing, write_plots, write_report

__all__ = ["REPORT_FILE", "find_results", "refuse_missing", "write_plots", "write_report"]
