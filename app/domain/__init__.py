"""Pure values and rules for interruptions: no I/O, no clock, no framework."""
