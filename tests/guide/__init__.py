"""The tutorial as tests: a package, so that pytest ends its worker after its last page."""
