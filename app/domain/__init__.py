"""What interruptions are and what becomes of them: pure values and rules, no I/O, no clock, no framework."""
