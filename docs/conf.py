"""How the documentation is built: `sphinx-build -W -n docs docs/_build/html`. Nothing is fetched from the network."""

from __future__ import annotations

import sys
from pathlib import Path

import hisdiff_sd

sys.path.insert(0, str(Path(__file__).parent / "_ext"))
from inventories import mapping

project = "hisdiff_sd"
author = "The hisdiff_sd developers"
copyright = "The hisdiff_sd developers, BSD 3-clause licence"
version = release = hisdiff_sd.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "api_pages",
    "code_links",
    "constants",
    "mathml",
    "root_pages",
]
templates_path = ["_templates"]
exclude_patterns = ["_build"]
nitpicky = True
# Type aliases of private modules: what they stand for is said where they are used.
nitpick_ignore_regex = [("py:class", r"(.*\.)?(Batch|Manifest|Pixels|Target)")]
default_role = "literal"  # single backticks in docstrings; `code_links` makes links of those that name public things

autosummary_generate = True
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
napoleon_google_docstring = False
napoleon_use_rtype = False
# "Returns" is prose, not "type, description": the type is that of the annotation. "Attributes" may name several in a line.
napoleon_custom_sections = ["Returns", ("Attributes", "params_style")]

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # notebooks are kept with what they printed and drew
nb_render_image_options = {"alt": "What the cell above draws"}  # instead of the name of a file

intersphinx_mapping = mapping()

copybutton_prompt_text = r">>> |\.\.\. "
copybutton_prompt_is_regexp = True

html_math_renderer = "mathml"
html_theme = "sphinx_book_theme"
html_title = "hisdiff_sd"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {"show_toc_level": 2, "use_download_button": False, "use_fullscreen_button": False}
