"""`blob-pyro report`: what runs were, what they scored and what to be wary of, in one HTML file.

Everything comes from the files of the run directories: no model is loaded, nothing in them is executed, and no file
outside of them is read.
"""

from blob_pyro.report.page.cautions import Caution, cautions_of
from blob_pyro.report.page.writing import write_report
from blob_pyro.storage.run_files import RunFiles, read_run

__all__ = ["Caution", "RunFiles", "cautions_of", "read_run", "write_report"]
