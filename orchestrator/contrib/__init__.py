"""Doors to other frameworks and libraries: each imports the one that it is for, and the engine imports none."""
