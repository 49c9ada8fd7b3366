"""Everything that makes the mini family. Nothing here is imported at run time."""
