"""Formulas, one place each: pure functions of numbers, with equation, source and a worked example."""
