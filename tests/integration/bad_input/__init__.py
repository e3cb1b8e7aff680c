"""Bad input on real workers: a package, so that pytest ends its worker after its last test."""
