"""How Sphinx makes the site's pages; ``build.py`` puts the sources together and calls it."""

import re

from docutils.nodes import SkipNode
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util.logging import getLogger

project, author, html_title = "lcm_nb", "the lcm_nb authors", "lcm_nb"
copyright = "Apache-2.0"
extensions = ["myst_nb"]
nb_execution_mode = "off"  # build.py has run them
nb_output_stderr = "remove"
nb_merge_streams = True
nb_code_prompt_show, nb_code_prompt_hide = "Show the solution's code", "Hide the solution's code"
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 4
myst_links_external_new_tab = False
exclude_patterns = ["extra"]
html_theme = "furo"
html_favicon = "static/favicon.svg"
html_static_path, html_extra_path = ["static"], ["extra"]
html_css_files, html_js_files = ["site.css"], [("site.js", {"type": "module"})]
html_copy_source, html_use_index, html_show_copyright = False, False, False
SIZES = re.compile(r"\\[bB]igg?[lr]?(?![a-zA-Z])")  # of brackets, which MathML stretches by itself


def _maths(translator, node, display: bool) -> None:
    try:
        text = tex2mathml(SIZES.sub("", node.astext()), as_block=display)
    except MathError as error:  # with -W: the build ends
        getLogger(__name__).warning("no MathML for %r: %s", node.astext(), error, location=node)
        text = translator.encode(node.astext())
    translator.body.append(f'<div class="math">{text}</div>' if display else text)


def _inline(translator, node) -> None:
    _maths(translator, node, False)
    raise SkipNode


def _block(translator, node) -> None:
    _maths(translator, node, True)
    raise SkipNode


def setup(app) -> None:
    """Draw formulas as MathML, which browsers know by themselves: Sphinx's own way asks a server for MathJax."""
    app.add_html_math_renderer("mathml", inline_renderers=(_inline, None), block_renderers=(_block, None))


html_math_renderer = "mathml"
