"""The flows of `edited` before the deployment."""

from tests.programs import edited

VERSION = edited.make("old")
app = VERSION.app
