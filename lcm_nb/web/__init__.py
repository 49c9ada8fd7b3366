"""The mini LCM in a browser: as a page of its own (:mod:`lcm_nb.export`), or in a notebook."""
