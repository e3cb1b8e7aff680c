"""Chaos tests: a package, so that pytest ends its worlds after its last test."""
