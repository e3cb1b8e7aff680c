"""Flows that are wrong, one fault each: what `build()` says of them, or what only a run can find out."""

from tests.faulty_children import CHILDREN
from tests.faulty_definitions import NAMES, NO_TRIGGER, SHAPES
from tests.faulty_maps import MAPS
from tests.faulty_nodes import FUNCTIONS, LIMITS
from tests.faulty_reads import ONLY_AT_RUN_TIME, READS
from tests.faulty_wiring import WIRING

ROWS = NO_TRIGGER + NAMES + SHAPES + MAPS + LIMITS + FUNCTIONS + READS + WIRING + CHILDREN + ONLY_AT_RUN_TIME
AT_RUN_TIME = [row for row in ROWS if not row.code]
AT_BUILD = [row for row in ROWS if row.code]
