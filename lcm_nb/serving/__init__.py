"""A server for a class: who draws next (``queue``), what draws (``painter``), the door (``app``); Ray (``server``)."""
