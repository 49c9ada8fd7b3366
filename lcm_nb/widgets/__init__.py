"""The panel: its controls, its screen, and the thread that draws. Nothing here knows torch or diffusers."""
