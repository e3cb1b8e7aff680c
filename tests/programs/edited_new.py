"""The flows of `edited` after the deployment."""

from tests.programs import edited

VERSION = edited.make("new")
app = VERSION.app
