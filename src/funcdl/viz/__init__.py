"""Figures of plain results, and the self-contained HTML report of a run."""

from funcdl._environment import environment as environment
from funcdl.viz._figures import bars as bars
from funcdl.viz._figures import confusion as confusion
from funcdl.viz._figures import curve as curve
from funcdl.viz._figures import eigenvalues as eigenvalues
from funcdl.viz._figures import ellipses as ellipses
from funcdl.viz._figures import images as images
from funcdl.viz._figures import spectral_density as spectral_density
from funcdl.viz._provenance import commit as commit
from funcdl.viz._provenance import fingerprint as fingerprint
from funcdl.viz._report import Section as Section
from funcdl.viz._report import figure as figure
from funcdl.viz._report import report as report
from funcdl.viz._report import table as table
from funcdl.viz._report import text as text
from funcdl.viz._sections import classification as classification
from funcdl.viz._sections import curvature_section as curvature_section
from funcdl.viz._sections import norms_section as norms_section
from funcdl.viz._sections import plus_minus as plus_minus
from funcdl.viz._sections import settings_section as settings_section
from funcdl.viz._sections import training_section as training_section
