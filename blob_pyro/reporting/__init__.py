"""`blob-pyro report`: what runs were, what they scored and what to be wary of, in one HTML file.

Everything comes from the files of the run directories: no model is loaded, nothing in them is executed, and no file
outside of them is read.
"""

from blob_pyro.reporting.cautions import Caution, cautions_of
from blob_pyro.reporting.files import RunFiles, read_run
from blob_pyro.reporting.writing import write_report

__all__ = ["Caution", "RunFiles", "cautions_of", "read_run", "write_report"]
